"""What the page shows of each run, as plain values: names, facts, curves, cards.

No two runs have the same settings and seed. What is undefined is None; numbers are rounded to what
a reader can see.
"""

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hsproto import config as config_lib
from hsproto.methods import method_of
from hsproto.metrics import METRICS, defined
from hsproto.reporting import naming
from hsproto.reporting.table import format_value
from hsproto.runs import run as run_lib
from hsproto.runs.progress import duration
from hsproto.runs.reading import is_number
from hsproto.runs.run import Run, data_set, imbalance_factor, total_steps

# Of the steps between evaluations.
OF_BATCHES = {
    "loss": "training loss",
    "batch_accuracy": "accuracy on training batches",
    "gradient_norm": "length of the gradient",
    "learning_rate": "learning rate",
}
# What a log scale shows best.
LOG_SCALE = {name for name, metric in METRICS.items() if metric.log_scale} | {"gradient_norm"}
MOST_BATCHES = 150  # points of a curve over batches
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def summary(runs: Sequence[Run]) -> list[str]:
    """Return texts that say in short what was run, on what, and how long."""

    def join(text_of):
        return ", ".join(dict.fromkeys(filter(None, map(text_of, runs))))

    finished = [run for run in runs if run.summary]
    seconds = sum(filter(None, map(_seconds, finished)))
    texts = (
        join(data_set),
        join(lambda run: naming.loss_name(run.config["loss"])),
        join(lambda run: run.config.get("backbone")),
        join(lambda run: (run.summary or {}).get("devices")),
        f"{duration(seconds)} of training" if seconds else "",
        f"{len(finished)} of {len(runs)} finished" if len(finished) < len(runs) else "",
    )
    return [text for text in texts if text]


def _seconds(run):
    """How long the steps of a finished run took, without compilation and evaluations, or None."""
    speed = run.summary.get("images_per_second")
    if not defined(speed) or speed <= 0:
        return None
    return total_steps(run) * run_lib.settings(run)["batch_size"] / speed


def facts(run: Run) -> list[tuple[str, str]]:
    """Return pairs (what, text) that say what was run, on what, and for how long."""
    settings, total, factor = run_lib.settings(run), total_steps(run), imbalance_factor(run)
    tail = f", imbalance factor {factor:g}" if factor < 1 else ""
    sizes = f"{settings['num_examples']} images, {settings['num_classes']} classes{tail}"
    steps = f"{total}" if run.summary else f"{run_lib.last_step(run) or 0} of {total}"
    epochs = f"{settings['epochs']:g} epochs, batch {settings['batch_size']}"
    pairs = [
        ("data", f"{data_set(run)}: {sizes}"),
        ("network", f"{settings['backbone']}, {settings['embedding']}"),
        ("steps", f"{steps} ({epochs})"),
    ]
    if run.summary is None:
        return pairs
    if seconds := _seconds(run):
        speed = run.summary["images_per_second"]
        pairs.append(("training took", f"{duration(seconds)} at {speed:.0f} images/s"))
    return pairs + [(key, run.summary.get(key) or "–") for key in ("devices", "finished")]


def curves(run: Run, measures: Iterable[str]) -> dict[str, dict]:
    """Return what was measured over training.

    {"evaluations": {"steps": [N], "train": {metric: [N]}, "test": ...}, "batches": {"steps": [M],
    key: [M]}} of the metrics and of OF_BATCHES that were ever defined.
    """
    records = {}
    for record in run.records:
        records.setdefault(record["step"], {}).update(record)
    evaluated = {s: r for s, r in sorted(records.items()) if any("/" in key for key in r)}
    evaluations = {"steps": list(evaluated)}
    for split in ("train", "test"):
        series = {
            key: [_rounded(record.get(f"{split}/{key}")) for record in evaluated.values()]
            for key in measures
        }
        evaluations[split] = {k: v for k, v in series.items() if any(x is not None for x in v)}
    return {"evaluations": evaluations, "batches": _over_batches(records)}


def _over_batches(records):
    steps = [s for s, r in sorted(records.items()) if _rounded(r.get("loss")) is not None]
    if len(steps) > MOST_BATCHES:
        places = np.linspace(0, len(steps) - 1, MOST_BATCHES).round().astype(int)
        steps = [steps[place] for place in places]
    batches = {"steps": steps}
    for key in OF_BATCHES:
        stored = key.removeprefix("batch_")
        values = [_rounded(records[step].get(stored)) for step in steps]
        if any(value is not None for value in values):
            batches[key] = values
    return batches


def _rounded(value):
    return float(f"{value:.5g}") if is_number(value) else None


def line_styles(runs: Iterable[Run]) -> dict[str, dict[str, str]]:
    """Return {workdir: color, marker and dash of a run's curve}, two of them by loss."""
    seen, styles = Counter(), {}
    for run in runs:
        method, kind = method_of(run.config["loss"]), (data_set(run), run.config["loss"])
        styles[run.workdir] = {
            "color": method.color,
            "marker": _MARKERS.get(method.marker, "circle"),
            "dash": DASHES[seen[kind] % len(DASHES)],
        }
        seen[kind] += 1
    return styles


# {matplotlib's name of a marker: plotly's}.
_MARKERS = {"o": "circle", "X": "x", "s": "square", "^": "triangle-up", "D": "diamond"}
_MARKERS |= {"P": "cross", "v": "triangle-down", "*": "star", "x": "x-thin"}


def card(run: Run) -> dict[str, Any]:
    """Return how a run was made and can be made again.

    A dict: config: triples (key, value as text, whether it is the default). versions: pairs.
    recipe: the text of a config file. commands: lines of a shell. checkpoint: the path of the
    newest one, or None.
    """
    defaults = config_lib.default().to_dict()
    triples = [
        (k, format_value(v), k in defaults and _as_tuple(defaults[k]) == _as_tuple(v))
        for k, v in sorted(run.config.items())
    ]
    versions = run.summary.get("versions") if run.summary else None
    return {
        "seed": format_value(run.config.get("seed")),
        "devices": (run.summary or {}).get("devices"),
        "config": triples,
        "versions": sorted(versions.items()) if isinstance(versions, dict) else [],
        "recipe": recipe(run.config),
        "commands": [
            "hsproto train --config=recipe.py --workdir=again",
            f"hsproto evaluate --workdir={shlex.quote(run.workdir)}",
        ],
        "checkpoint": _checkpoint(run.workdir),
    }


def recipe(config: Mapping[str, Any]) -> str:
    """Return the text of a config file that gives a run's config."""
    defaults = config_lib.default().to_dict()
    lines = ["from hsproto.config import default, with_argument", "", ""]
    lines += ["def get_config(arg=None):", "    config = default()"]
    for key, value in sorted(config.items()):
        if key in defaults and _as_tuple(defaults[key]) != _as_tuple(value):
            lines.append(f"    config.{key} = {_as_tuple(value)!r}")
    return "\n".join([*lines, "    return with_argument(config, arg)"]) + "\n"


def _as_tuple(value):
    # JSON has no tuples, the config no lists.
    return tuple(value) if isinstance(value, list) else value


def _checkpoint(workdir):
    folder = os.path.join(workdir, "checkpoints")
    steps = [name for name in os.listdir(folder) if name.isdigit()] if os.path.isdir(folder) else []
    return os.path.join(folder, max(steps, key=int)) if steps else None
