"""What the rows of a table are called.

A row is named by its loss and by the settings in which runs on the same data differ. The value that
most of them have is left out and stated in the table's note.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hsproto.methods import METHODS, method_of
from hsproto.reporting import grouping, paper_results
from hsproto.reporting.grouping import data_key
from hsproto.reporting.table import format_value, natural_key
from hsproto.runs import run as run_lib
from hsproto.runs.run import Run, data_set, imbalance_factor

# What goes with the data: it names a row only if runs on the same data differ in it.
OF_DATA_SET = ("dataset", "source", "class_list", "class_groups", "num_classes", "num_examples")
OF_DATA_SET += ("image_size", "load_size", "channels", "mean", "std", "imbalance_factor")
OF_DATA_SET += ("subset_seed",)
# What goes with the loss: it names a row only if runs of the same loss differ in it.
_OF_LOSS = ("projection", "projection_dim", "head")


class Names(NamedTuple):
    """Names of rows.

    Attributes:
        name: {workdir: the name of the run's row}.
        place: {workdir: what sorts the row}.
        note: The sentences that say what the names leave out.
    """

    name: dict[str, str]
    place: dict[str, tuple]
    note: str


def loss_name(loss: str) -> str:
    """Return the paper's name of a loss."""
    return method_of(loss).title


def in_paper_order(
    names: Iterable[str], order: Sequence[str] = tuple(paper_results.CLASSES)
) -> list[str]:
    """Return names of data sets sorted, those of `order` first."""
    return sorted(
        names, key=lambda n: (order.index(n) if n in order else len(order), natural_key(n))
    )


def row_names(runs: Sequence[Run], omit: Sequence[str] = (), in_full: bool = False) -> Names:
    """Return the names of the rows of runs.

    On the same data, runs share a name only if they differ in nothing but their seeds and `omit`.

    Args:
        runs: The runs of a table.
        omit: Config keys that do not name rows.
        in_full: Whether the value that most runs have is named too.
    """
    settings = {run.workdir: run_lib.settings(run) for run in runs}
    groups, own = grouping.by_data_key(runs), {}
    for members in groups.values():
        for loss in {run.config["loss"] for run in members}:
            same = [run for run in members if run.config["loss"] == loss]
            own.setdefault(loss, set()).update(set(grouping.varying(same)) - set(omit))
    varying = [key for key in grouping.varying(runs) if key not in (*omit, "loss")]
    named = set().union(*own.values()) | ({"embedding"} & set(varying))
    usual = {
        group: {} if in_full else {k: _commonest(settings, m, k) for k in named - {"embedding"}}
        for group, m in groups.items()
    }

    name, place, order = {}, {}, list(METHODS)
    for run in runs:
        loss, values, base = run.config["loss"], settings[run.workdir], usual[data_key(run)]
        keys = [k for k in sorted(named) if _applies(k, loss) or k in own[loss]]
        keys = [k for k in keys if base.get(k, _NONE) != values[k]]
        if imbalance_factor(run) < 1 and "imbalance_factor" not in omit:
            keys.append("imbalance_factor")
        texts = {key: format_value(values[key]) for key in keys}
        name[run.workdir] = ", ".join([loss_name(loss), *map("=".join, texts.items())])
        rank = order.index(loss) if loss in order else len(order)
        place[run.workdir] = rank, loss, [(k, natural_key(text)) for k, text in texts.items()]
    return Names(name, place, _left_out(settings, groups, usual, varying, named))


_NONE = object()  # not None, which a config may hold


def _applies(key, loss):
    """Whether a key that varies for another loss means something for runs of this one."""
    return key not in _OF_LOSS and not (key == "temperature" and not method_of(loss).temperature)


def _commonest(settings, members, key):
    """The value of a key that more of the members have than any other one, or _NONE."""
    values = [settings[run.workdir][key] for run in members]
    counts = Counter(map(json.dumps, values)).most_common(2)
    if len(counts) == 2 and counts[0][1] == counts[1][1]:
        return _NONE
    return next(value for value in values if json.dumps(value) == counts[0][0])


def _left_out(settings, groups, usual, varying, named):
    """The sentences that say which values rows leave out."""
    usually, by_loss = [], []
    for key in varying:
        if key in OF_DATA_SET and key not in named:
            continue
        values = {}
        for (data, _), members in groups.items():
            texts = {format_value(settings[run.workdir][key]) for run in members}
            if key not in named and len(texts) > 1:
                by_loss.append(key)
            elif key not in named or usual[data, _].get(key, _NONE) is not _NONE:
                value = texts.pop() if key not in named else format_value(usual[data, _][key])
                values.setdefault(value, []).append(data)
        if key in by_loss or not values:
            continue
        several = len(values) > 1
        texts = [
            f"{v} ({', '.join(dict.fromkeys(d))})" if several else v for v, d in values.items()
        ]
        usually.append(f"{key}={' or '.join(texts)}")
    sentences = [f"Where a row does not say otherwise: {'; '.join(usually)}."] if usually else []
    if by_loss:
        sentences.append(f"Losses differ in {', '.join(dict.fromkeys(by_loss))} too.")
    return " ".join(sentences)


def run_labels(runs: Sequence[Run]) -> dict[str, str]:
    """Return {workdir: what a run is called on the page}, no two the same."""
    sets = {data_set(run) for run in runs}
    several_seeds = {
        run.workdir for group in grouping.by_settings(runs) if len(group) > 1 for run in group
    }
    names, labels = row_names(runs).name, []
    for run in runs:
        parts = [data_set(run)] if len(sets) > 1 else []
        parts.append(names[run.workdir])
        if run.workdir in several_seeds:
            parts.append(f"seed {format_value(run.config.get('seed'))}")
        labels.append(", ".join(parts))
    return {
        run.workdir: label if labels.count(label) == 1 else f"{label} ({run.name})"
        for run, label in zip(runs, labels, strict=True)
    }
