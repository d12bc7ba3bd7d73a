"""What the page of runs tells of each, as plain values: names, facts, curves, cards.

Each function takes a list of `run.Run`, or one, of which no two have the same settings and seed.
What is undefined is None; numbers are rounded to what a reader can see.
"""

import os
import shlex

import numpy as np

from hsproto import config as config_lib
from hsproto.methods import method_of
from hsproto.metrics import METRICS, defined
from hsproto.reporting import naming
from hsproto.reporting.table import format_value
from hsproto.runs import run as run_lib
from hsproto.runs.progress import duration
from hsproto.runs.run import data_set, imbalance_factor, total_steps

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


def summary(found):
    """Texts that say in short what was run, on what, and how long."""

    def each(of):
        return ", ".join(dict.fromkeys(filter(None, map(of, found))))

    finished = [run for run in found if run.summary]
    count = f"{len(finished)} of {len(found)} finished" if len(finished) < len(found) else ""
    seconds = [seconds for seconds in map(_seconds, finished) if seconds]
    took = f"{duration(sum(seconds))} of training" if seconds else ""
    devices = each(lambda run: (run.summary or {}).get("devices"))
    networks = each(lambda run: run.config.get("backbone"))
    losses = each(lambda run: naming.loss_name(run.config["loss"]))
    told = (each(data_set), losses, networks, devices, took, count)
    return [text for text in told if text]


def _seconds(run):
    """What a finished run's steps took, compilation and evaluations aside, or None."""
    speed = run.summary.get("images_per_second")
    if not defined(speed) or speed <= 0:
        return None
    return total_steps(run) * run_lib.settings(run)["batch_size"] / speed


def facts(run):
    """Pairs (what, text) that say what was run, on what, and for how long."""
    settings, told = run_lib.settings(run), []
    total, reached = total_steps(run), run_lib.last_step(run)
    long_tail = f", imbalance factor {imbalance_factor(run):g}" if imbalance_factor(run) < 1 else ""
    sizes = f"{settings['num_examples']} images, {settings['num_classes']} classes{long_tail}"
    told.append(("data", f"{data_set(run)}: {sizes}"))
    told.append(("network", f"{settings['backbone']}, {settings['embedding']}"))
    done = f"{reached or 0} of {total}" if run.summary is None else f"{total}"
    epochs = f"{settings['epochs']:g} epochs, batch {settings['batch_size']}"
    told.append(("steps", f"{done} ({epochs})"))
    seconds = _seconds(run) if run.summary else None
    if seconds:
        speed = run.summary["images_per_second"]
        told.append(("training took", f"{duration(seconds)} at {speed:.0f} images/s"))
    if run.summary:
        told += [("devices", run.summary.get("devices") or "–")]
        told += [("finished", run.summary.get("finished") or "–")]
    return told


def curves(run, measures):
    """What was measured over training.

    Returns {"evaluations": {"steps": [N], "train": {measure: [N]}, "test": ...}, "batches":
    {"steps": [M], key: [M]}} of the measures and of OF_BATCHES that were ever defined.
    """
    records = {}
    for record in run.records:
        step = record["step"]
        if isinstance(step, int) and not isinstance(step, bool):
            records.setdefault(step, {}).update(record)
    evaluated = {s: r for s, r in sorted(records.items()) if any("/" in key for key in r)}
    found = {"steps": list(evaluated)}
    for split in ("train", "test"):
        series = {
            key: [_numeric(record.get(f"{split}/{key}")) for record in evaluated.values()]
            for key in measures
        }
        found[split] = {k: v for k, v in series.items() if any(x is not None for x in v)}
    return {"evaluations": found, "batches": _over_batches(records)}


def _over_batches(records):
    named = [(s, r) for s, r in sorted(records.items()) if _numeric(r.get("loss")) is not None]
    if len(named) > MOST_BATCHES:
        places = np.linspace(0, len(named) - 1, MOST_BATCHES).round().astype(int)
        named = [named[place] for place in places]
    found = {"steps": [step for step, _ in named]}
    for key in OF_BATCHES:
        stored = key.removeprefix("batch_")
        values = [_numeric(record.get(stored)) for _, record in named]
        if any(value is not None for value in values):
            found[key] = values
    return found


def _numeric(value):
    if isinstance(value, bool) or not isinstance(value, int | float) or not defined(value):
        return None
    return float(f"{value:.5g}")


def line_styles(found):
    """{workdir: colour, marker and dash of a run's curve}: a loss has one colour and marker."""
    count, made = {}, {}
    for run in found:
        loss = run.config["loss"]
        place = count[data_set(run), loss] = count.get((data_set(run), loss), -1) + 1
        look = method_of(loss)
        made[run.workdir] = {
            "color": look.color,
            "marker": _MARKERS.get(look.marker, "circle"),
            "dash": DASHES[place % len(DASHES)],
        }
    return made


# matplotlib's markers in plotly's words.
_MARKERS = {"o": "circle", "X": "x", "s": "square", "^": "triangle-up", "D": "diamond"}
_MARKERS |= {"P": "cross", "v": "triangle-down", "*": "star", "x": "x-thin"}


def card(run):
    """How a run was made and can be made again.

    config: triples (key, value as text, whether it is the default's). versions: pairs. recipe: a
    config file's text; commands: lines of a shell. checkpoint: the newest one's path, or None.
    """
    usual = config_lib.default().to_dict()
    settings = sorted(run.config.items())
    triples = [
        (k, format_value(v), k in usual and _as_stored(usual[k]) == _as_stored(v))
        for k, v in settings
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


def recipe(stored):
    """The text of a config file that gives the config of a run, a dict."""
    usual = config_lib.default().to_dict()
    lines = ["from hsproto.config import default, with_argument", "", ""]
    lines += ["def get_config(arg=None):", "    config = default()"]
    for key, value in sorted(stored.items()):
        if key in usual and _as_stored(usual[key]) != _as_stored(value):
            lines.append(f"    config.{key} = {_as_stored(value)!r}")
    return "\n".join([*lines, "    return with_argument(config, arg)"]) + "\n"


def _as_stored(value):
    # JSON has no tuples, the config no lists.
    return tuple(value) if isinstance(value, list) else value


def _checkpoint(workdir):
    place = os.path.join(workdir, "checkpoints")
    steps = [name for name in os.listdir(place) if name.isdigit()] if os.path.isdir(place) else []
    return os.path.join(place, max(steps, key=int)) if steps else None
