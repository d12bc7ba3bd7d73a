#!/usr/bin/env python3
"""Train and measure cells of `protocol.py`, one after the other in one process.

  python launch/train_cells.py CELLS.json

launch/results.py writes CELLS.json and calls this: {"features": DIR, "out": DIR, "cells": [Cell as
a list, ...]}. What is finished is left as it is; a run that diverges is a result, which its
failed.json holds.
"""

import json
import pathlib
import sys
from typing import Any

import measure_cells
import numpy as np
import protocol
from protocol import HELD_OUT, NEW_CLASSES, Cell

from hsproto import head, train
from hsproto.runs.files import write_text
from hsproto.training.loop import NonFiniteLoss


def make_config(cell: Cell, features: pathlib.Path) -> Any:
    """Return the config of a cell's run."""
    folder = features / cell.set
    values = dict(cell.values)
    if values.get("class_list") == f"first{100 - NEW_CLASSES}":
        names = np.load(folder / "class_names.npy")
        values["class_list"] = "/".join(names[:-NEW_CLASSES])
    config = head.make_config(str(folder), values)
    whole = not cell.study
    config.eval_every_epochs = config.epochs if whole else config.epochs / 5
    config.checkpoint_every_epochs = config.epochs
    assert (config.validation_share == HELD_OUT) == whole  # trials never read the test set
    return config


def run(cell: Cell, features: pathlib.Path, workdir: pathlib.Path) -> bool:
    """Train and measure a cell; return whether it is finished."""
    if not (workdir / "summary.json").exists():
        try:
            if train.train(make_config(cell, features), str(workdir)) is None:
                return False
        except NonFiniteLoss as error:
            write_text(str(workdir / "failed.json"), json.dumps({"diverged": str(error)}))
            return True
    if cell.measure and not (workdir / "measured.json").exists():
        found = measure_cells.measure(cell, features, workdir)
        write_text(str(workdir / "measured.json"), json.dumps(found, indent=1))
    return True


def main() -> int:
    work = json.loads(pathlib.Path(sys.argv[1]).read_text())
    features, out = pathlib.Path(work["features"]), pathlib.Path(work["out"])
    for values in work["cells"]:
        cell = Cell(*values)
        if not protocol.is_finished(cell, out) and not run(cell, features, out / cell.name):
            return 1  # told to stop
    return 0


if __name__ == "__main__":
    sys.exit(main())
