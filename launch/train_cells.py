#!/usr/bin/env python3
"""Train and measure cells of `protocol.py`, one after the other in one process.

  python launch/train_cells.py CELLS.json

launch/results.py writes CELLS.json and calls this: {"features": DIR, "images": DIR, "out": DIR,
"cells": [Cell as a list, ...]}. What is finished is left as it is; a run that diverges is a result,
which its failed.json holds.
"""

import json
import pathlib
import sys
from typing import Any, NamedTuple

import measure_cells
import numpy as np
import protocol
from protocol import HELD_OUT, NEW_CLASSES, Cell

from hsproto import cli, head, train
from hsproto.runs.files import write_text
from hsproto.training.loop import NonFiniteLoss


class Data(NamedTuple):
    """Where the data are: folders of features, and of images (launch/small_data.py)."""

    features: pathlib.Path
    images: pathlib.Path | None = None


def make_config(cell: Cell, data: Data) -> Any:
    """Return the config of a cell's run. Trials never read the test set."""
    make = _on_images if protocol.HEADS[cell.head].recipe else _on_features
    config = make(cell, data)
    config.eval_every_epochs = config.epochs / 5 if cell.study else config.epochs
    return config


def _on_features(cell, data):
    folder, values = data.features / cell.set, dict(cell.values)
    if values.get("class_list") == f"first{100 - NEW_CLASSES}":
        names = np.load(folder / "class_names.npy")
        values["class_list"] = "/".join(names[:-NEW_CLASSES])
    config = head.make_config(str(folder), values)
    config.checkpoint_every_epochs = config.epochs
    assert (config.validation_share == HELD_OUT) == (not cell.study)
    return config


def _on_images(cell, data):
    folder = data.images / ("whole" if cell.study else "held_out")
    values = {"dataset": cell.set, "data_dir": str(folder)} | cell.values
    return cli.load_config(
        f"{protocol.HEADS[cell.head].recipe}:{','.join(map('='.join, values.items()))}"
    )


def run(cell: Cell, data: Data, workdir: pathlib.Path) -> bool:
    """Train and measure a cell; return whether it is finished."""
    if not (workdir / "summary.json").exists():
        try:
            if train.train(make_config(cell, data), str(workdir)) is None:
                return False
        except NonFiniteLoss as error:
            write_text(str(workdir / "failed.json"), json.dumps({"diverged": str(error)}))
            return True
    if cell.measure and not (workdir / "measured.json").exists():
        found = measure_cells.measure(cell, data.features, workdir)
        write_text(str(workdir / "measured.json"), json.dumps(found, indent=1))
    return True


def main() -> int:
    work = json.loads(pathlib.Path(sys.argv[1]).read_text())
    out = pathlib.Path(work["out"])
    data = Data(*(work[key] and pathlib.Path(work[key]) for key in Data._fields))
    for values in work["cells"]:
        cell = Cell(*values)
        if not protocol.is_finished(cell, out) and not run(cell, data, out / cell.name):
            return 1  # told to stop
    return 0


if __name__ == "__main__":
    sys.exit(main())
