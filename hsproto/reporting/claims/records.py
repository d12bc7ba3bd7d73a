"""The file of a study's condensed runs: what its tables and verdicts are computed from.

JSON with a line per trial and run, small enough to be committed:

regime     the setting, whose claims are judged (`claims.CLAIMS`)
baseline   the method that others are compared with
methods    {name: {title, loss}}, in the order of tables; loss as in `hsproto.methods`
studies    {name: {title, places}}, in the order of tables; places are the (set, variant) that the
           protocol has, so that what was not run can be told
trials     {head, set, method, trial, values, held_out: accuracy on held-out rows, null: diverged,
           metrics: of the training rows, null: diverged}
runs       {study, head, set, method, variant, seed, values, metrics: {name: value}, right}
           metrics is null for a run that diverged; right tells which test images are classified
           correctly: their bits, most significant first, compressed by zlib, in base64. Where a
           metric is of several variants of each image, by_image {metric: text} has how many of
           them are: their number, then bytes, compressed likewise
made_with  {package or "machine": text}
"""

import base64
import json
import os
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hsproto.errors import UserError
from hsproto.runs.files import write_text

_VERSION = 1


class Method(NamedTuple):
    """What is compared; `loss` as in `hsproto.methods`."""

    title: str
    loss: str


class Study(NamedTuple):
    """What a study is about, in words, and the (set, variant) that it is to be run on."""

    title: str
    places: list[tuple[str, str]]


class Trial(NamedTuple):
    """A run that was made to choose values, on held-out rows of the training set."""

    head: str
    set: str
    method: str
    trial: int
    values: dict[str, str]
    held_out: float | None
    metrics: dict[str, float] | None


class ByImage(NamedTuple):
    """How many of the `of` variants of each image are classified correctly, uint8 [N]."""

    of: int
    counts: np.ndarray


class Run(NamedTuple):
    """A run that counts; `metrics` is None and `right` empty if it diverged.

    `by_image` holds what stands behind a metric of variants of images, e.g. of corrupted ones.
    """

    study: str
    head: str
    set: str
    method: str
    variant: str
    seed: int
    values: dict[str, str]
    metrics: dict[str, float] | None
    right: np.ndarray
    by_image: dict[str, ByImage] = {}


class Records(NamedTuple):
    """What a file holds."""

    regime: str
    baseline: str
    methods: dict[str, Method]
    trials: list[Trial]
    runs: list[Run]
    made_with: dict[str, str]
    studies: dict[str, Study] = {}


def write(path: str, records: Records) -> None:
    """Write a file, a line per trial and run, so that changes can be read."""
    head = {
        "version": _VERSION,
        "regime": records.regime,
        "baseline": records.baseline,
        "methods": {name: method._asdict() for name, method in records.methods.items()},
        "made_with": records.made_with,
        "studies": {name: study._asdict() for name, study in records.studies.items()},
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    lines.append(_listed("trials", [trial._asdict() for trial in records.trials]))
    lines.append(_listed("runs", [_as_json(run) for run in records.runs]))
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _listed(name, values):
    return f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, values)) + "\n]"


def _as_json(run):
    found = run._asdict() | {"right": ""}
    if len(run.right):
        bits = np.packbits(np.asarray(run.right, bool))
        found["right"] = f"{len(run.right)}:{_packed(bits)}"
    of_images = found.pop("by_image")
    if of_images:
        found["by_image"] = {
            metric: f"{of}:{_packed(np.asarray(counts, np.uint8))}"
            for metric, (of, counts) in of_images.items()
        }
    return found


def _packed(numbers):
    return base64.b64encode(zlib.compress(numbers.tobytes(), 9)).decode()


def _run(values):
    values = dict(values)
    right, of_images = values.pop("right"), values.pop("by_image", {})
    bits, found = np.zeros(0, bool), {}
    if right:
        count, numbers = _unpacked(right)
        bits = np.unpackbits(numbers)[:count].astype(bool)
    for metric, text in of_images.items():
        found[metric] = ByImage(*_unpacked(text))
    return Run(**values, right=bits, by_image=found)


def _unpacked(text):
    number, _, code = text.partition(":")
    return int(number), np.frombuffer(zlib.decompress(base64.b64decode(code)), np.uint8)


def read(path: str | os.PathLike) -> Records:
    """Return what a file holds.

    Raises:
        UserError: It is no such file, is damaged or of a newer version; or it holds a run twice.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if found["version"] > _VERSION:
            raise UserError(f"{path} is of a newer version of hsproto")
        trials = [Trial(**values) for values in found["trials"]]
        runs = [_run(values) for values in found["runs"]]
        methods = {name: Method(**values) for name, values in found["methods"].items()}
        studies = {
            name: Study(
                study["title"], [(dataset, variant) for dataset, variant in study["places"]]
            )
            for name, study in found.get("studies", {}).items()
        }
        head: dict[str, Any] = {key: found[key] for key in ("regime", "baseline", "made_with")}
        records = Records(**head, methods=methods, trials=trials, runs=runs, studies=studies)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise UserError(f"{path} is no file of a study's runs: {error}") from None
    _check_once([trial[:4] for trial in trials], path)
    _check_once([(*run[:5], run.seed) for run in runs], path)
    return records


def _check_once(keys: Sequence[tuple], path: Any) -> None:
    seen: set[tuple] = set()
    for key in keys:
        if key in seen:
            raise UserError(f"{path} holds {' '.join(map(str, key))} twice")
        seen.add(key)


def chosen(records: Records, head: str, dataset: str, method: str) -> Trial | None:
    """Return the trial of the highest accuracy on held-out rows, the first of equal ones.

    None if there are no trials or all diverged.
    """
    found = [
        trial
        for trial in records.trials
        if (trial.head, trial.set, trial.method) == (head, dataset, method)
        and trial.held_out is not None
    ]
    return max(found, key=lambda trial: (trial.held_out, -trial.trial)) if found else None
