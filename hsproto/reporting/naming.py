"""Which runs stand in a row of a table, and what the row is called.

Only seeds are averaged. A row is named by its loss and by the settings in which runs on the same
data differ, a value that most of them have left out and told in the table's note.
"""

import json
from collections import Counter
from typing import NamedTuple

from hsproto import methods
from hsproto.reporting import grouping, paper_results
from hsproto.reporting.table import format_value, natural_key
from hsproto.runs import run as run_lib
from hsproto.runs.run import data_set, imbalance_factor

# What goes with the data, of which a row is not named unless runs on the same data differ in it.
OF_DATA_SET = ("dataset", "source", "class_list", "class_groups", "num_classes", "num_examples")
OF_DATA_SET += ("image_size", "load_size", "channels", "mean", "std", "imbalance_factor")
OF_DATA_SET += ("subset_seed",)
# What goes with the loss: named where runs of the same loss differ in it.
_OF_LOSS = ("projection", "projection_dim", "head")


class Names(NamedTuple):
    """Of each run, by workdir, the name of its row and its place; and what the names leave out."""

    name: dict
    place: dict
    note: str


def loss_name(loss):
    """A loss in the paper's words."""
    return methods.method_of(loss).title


def in_paper_order(names, order=tuple(paper_results.CLASSES)):
    """Names of data sets, the paper's first."""
    return sorted(
        names, key=lambda n: (order.index(n) if n in order else len(order), natural_key(n))
    )


def row_names(found, omit=(), in_full=False):
    """`Names` of runs; on the same data no two have one but by their seeds and keys of `omit`.

    in_full: no value is left out for being the commonest.
    """
    settings = {run.workdir: run_lib.settings(run) for run in found}
    groups, own = {}, {}
    for run in found:
        groups.setdefault((data_set(run), imbalance_factor(run)), []).append(run)
    for members in groups.values():
        for loss in {run.config["loss"] for run in members}:
            same = [run for run in members if run.config["loss"] == loss]
            own.setdefault(loss, set()).update(set(grouping.varying(same)) - set(omit))
    varying = [key for key in grouping.varying(found) if key not in (*omit, "loss")]
    named = set().union(*own.values()) | ({"embedding"} & set(varying))
    usual = {
        group: {} if in_full else {k: _commonest(settings, m, k) for k in named - {"embedding"}}
        for group, m in groups.items()
    }

    name, place, order = {}, {}, list(methods.METHODS)
    for run in found:
        loss, values = run.config["loss"], settings[run.workdir]
        base = usual[data_set(run), imbalance_factor(run)]
        keys = [k for k in sorted(named) if _tells(k, loss) or k in own[loss]]
        keys = [k for k in keys if base.get(k, _NONE) != values[k]]
        if imbalance_factor(run) < 1 and "imbalance_factor" not in omit:
            keys.append("imbalance_factor")
        name[run.workdir] = ", ".join(
            [loss_name(loss), *(f"{key}={format_value(values[key])}" for key in keys)]
        )
        rank = order.index(loss) if loss in order else len(order)
        place[run.workdir] = (
            rank,
            loss,
            [(key, natural_key(format_value(values[key]))) for key in keys],
        )
    return Names(name, place, _left_out(settings, groups, usual, varying, named))


_NONE = object()  # no config has it, as it may have None


def _tells(key, loss):
    """Whether another loss's varying key says something of runs of this one."""
    return key not in _OF_LOSS and not (
        key == "temperature" and not methods.method_of(loss).temperature
    )


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
            there = {format_value(settings[run.workdir][key]) for run in members}
            if key not in named and len(there) > 1:
                by_loss.append(key)
            elif key not in named or usual[data, _].get(key, _NONE) is not _NONE:
                value = there.pop() if key not in named else format_value(usual[data, _][key])
                values.setdefault(value, []).append(data)
        if key in by_loss or not values:
            continue
        several = len(values) > 1
        told = [f"{v} ({', '.join(dict.fromkeys(d))})" if several else v for v, d in values.items()]
        usually.append(f"{key}={' or '.join(told)}")
    sentences = [f"Where a row does not say otherwise: {'; '.join(usually)}."] if usually else []
    if by_loss:
        sentences.append(f"Losses differ in {', '.join(dict.fromkeys(by_loss))} too.")
    return " ".join(sentences)


def run_labels(found):
    """{workdir: what a run is called on the page}, no two the same."""
    sets = {data_set(run) for run in found}
    groups = {run.workdir: group for group in grouping.by_settings(found) for run in group}
    names = row_names(found).name
    named = {}
    for run in found:
        parts = [data_set(run)] if len(sets) > 1 else []
        parts.append(names[run.workdir])
        if len(groups[run.workdir]) > 1:
            parts.append(f"seed {format_value(run.config.get('seed'))}")
        named[run.workdir] = ", ".join(parts)
    texts = list(named.values())
    return {
        run.workdir: text if texts.count(text) == 1 else f"{text} ({run.name})"
        for run, text in zip(found, texts, strict=True)
    }
