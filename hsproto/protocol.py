"""What a run was trained on and how, in the words of tables, and how far that is from the paper's.

Reads configs alone, of `runs.Run`.
"""

import re
from types import SimpleNamespace

from hsproto import longtail, published, runs, state

_CIFAR = dict(backbone=("resnet18",), image_size=(32,), num_examples=(50_000,), epochs=(1000.0,))
_CIFAR |= dict(batch_size=(512,), temperature=published.TEMPERATURES, embedding=("pooled",))
_IMAGENET = dict(backbone=("resnet50",), image_size=(224,), epochs=(500.0,), embedding=("pooled",))
_RESNETS = ("resnet50", "resnet101", "resnet152")
# The paper's protocol (appendix E) by data set: the values it has of each key.
PROTOCOLS = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "imagenet100": _IMAGENET | dict(backbone=_RESNETS, batch_size=(1024,), temperature=(0.2,)),
    "imagenet2012": _IMAGENET
    | dict(num_examples=(1_281_167,), batch_size=(2048, 4096, 8192), temperature=(0.1, 0.2)),
}
_HEATED = ("normface", "ntce", "nonl")
# What the paper varies in tables of its own, and its figures there.
VARIED = {
    "temperature": published.TEMPERATURE,
    "batch_size": published.BATCH_SIZE,
    "backbone": published.BACKBONE,
}


def data_set(run):
    """What a run was trained on, long tails aside, in a word."""
    parts = [run.config.get(key) for key in ("class_list", "class_groups")]
    parts = [part for part in parts if part]
    name = run.config["dataset"]
    return f"{name} ({', '.join(parts)})" if parts else name


def factor(run):
    """The run's imbalance factor, 1 of a whole training set."""
    return run.config.get("imbalance_factor", 1.0)


def paper_set(run):
    """The paper's data set, as `published` calls it, that a run was trained on, or None."""
    name = run.config["dataset"]
    if run.config.get("class_list", "").startswith("imagenet100"):
        name = "imagenet100"
    classes = run.config.get("num_classes")
    return name if name in published.CLASSES and classes == published.CLASSES[name] else None


def paper_accuracy(run):
    """The paper's test accuracy beside that of a run on a whole training set, or None.

    Of a run that differs from Table 1's in nothing but a key of VARIED, what the paper has for its
    value. Others have Table 1's, but for those of the paper's network with another such value: they
    look like a run of the paper that is not there.
    """
    name, loss = paper_set(run), run.config["loss"]
    figure = published.ACCURACY.get(loss, {}).get(name)
    if figure is None:
        return None
    wanted, values = PROTOCOLS[name], runs.settings(run)
    off = [
        key
        for key in wanted
        if (key != "temperature" or loss in _HEATED)
        and values[key] not in _of_table_1(key, name, loss)
    ]
    if len(off) == 1 and off[0] in VARIED:
        return VARIED[off[0]].get(name, {}).get(loss, {}).get(values[off[0]])
    known = values["backbone"] in wanted["backbone"]
    same_network = known and not {"image_size", "embedding"} & set(off)
    return None if same_network and set(VARIED) & set(off) else figure


def _of_table_1(key, name, loss):
    """The values of a key of Table 1's accuracy: the best ones, where they are told."""
    allowed = PROTOCOLS[name][key]
    if key == "backbone":
        return allowed[:1]
    told = VARIED.get(key, {}).get(name, {}).get(loss)
    if not told:
        return allowed
    return [value for value in told if told[value] == published.ACCURACY[loss][name]]


def natural(text):
    """A key that sorts texts with numbers in them by these: resnet50 before resnet101."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(text))
    return [(float(part), "") if i % 2 else (-1.0, part) for i, part in enumerate(parts)]


def shown(value):
    """A config's value as the command line would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "/".join(map(shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def differences(found):
    """The sentence that says how the runs' protocol differs from that of the paper's figures."""
    told, differing = {}, {}
    for run in found:
        wanted = PROTOCOLS.get(paper_set(run))
        if not wanted:
            continue
        text = f"{'/'.join(wanted['backbone'])}, {wanted['image_size'][0]} pixels, "
        text += f"{wanted['epochs'][0]:g} epochs, batch {'/'.join(map(str, wanted['batch_size']))}"
        told.setdefault(text, []).append(paper_set(run))
        if factor(run) < 1 and "num_examples" in wanted:
            whole, classes = wanted["num_examples"][0], run.config["num_classes"]
            left = int(longtail.profile(whole, classes, factor(run)).sum())
            wanted = wanted | {"num_examples": (left,)}
        values = runs.settings(run)
        for key, allowed in wanted.items():
            if key == "temperature" and values["loss"] not in _HEATED:
                continue
            if values[key] not in allowed:
                differing.setdefault(key, set()).add(shown(values[key]))
    if not told:
        return ""
    papers = "; ".join(f"{text} ({', '.join(dict.fromkeys(sets))})" for text, sets in told.items())
    ours = "; ".join(
        f"{key}={', '.join(sorted(values, key=natural))}" for key, values in differing.items()
    )
    ours = f"these runs have other values: {ours}" if ours else "these runs have the same"
    return f"The paper's protocol is {papers}; {ours}."


def total_steps(run):
    """Steps of a run's whole training, finished or not."""
    if run.summary:
        return run.summary["step"]
    return state.total_steps(SimpleNamespace(**runs.settings(run)))
