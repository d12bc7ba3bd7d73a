"""What the paper trained on and how, and how far a run is from that.

Reads the configs of `run.Run` alone.
"""

from collections.abc import Iterable

from hsproto.data import long_tail
from hsproto.methods import method_of
from hsproto.reporting import paper_results
from hsproto.reporting.table import format_value, natural_key
from hsproto.runs import run as run_lib
from hsproto.runs.run import Run, imbalance_factor

_CIFAR: dict[str, tuple] = dict(
    backbone=("resnet18",), image_size=(32,), num_examples=(50_000,), epochs=(1000.0,)
)
_CIFAR |= dict(batch_size=(512,), temperature=paper_results.TEMPERATURES, embedding=("pooled",))
_IMAGENET: dict[str, tuple] = dict(
    backbone=("resnet50",), image_size=(224,), epochs=(500.0,), embedding=("pooled",)
)
_RESNETS = ("resnet50", "resnet101", "resnet152")
# The paper's protocol (appendix E) by data set: the values it has of each key.
PROTOCOLS: dict[str, dict[str, tuple]] = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "imagenet100": _IMAGENET | dict(backbone=_RESNETS, batch_size=(1024,), temperature=(0.2,)),
    "imagenet2012": _IMAGENET
    | dict(num_examples=(1_281_167,), batch_size=(2048, 4096, 8192), temperature=(0.1, 0.2)),
}

# What the paper varies in tables of its own, and its numbers there.
VARIED = {
    "temperature": paper_results.TEMPERATURE,
    "batch_size": paper_results.BATCH_SIZE,
    "backbone": paper_results.BACKBONE,
}


def paper_set(run: Run) -> str | None:
    """Return the paper's data set that a run was trained on, as `paper_results` names it."""
    name, settings = run.config["dataset"], run_lib.settings(run)
    if settings["init_from"]:  # the paper trains from scratch
        return None
    # Whatever the run calls them: digits, features, and one's own photos. The paper's folders are
    # ImageNet's.
    if settings["source"] in ("digits", "features"):
        return None
    if settings["source"] == "folder" and not name.startswith("imagenet"):
        return None
    if run.config.get("class_list", "").startswith("imagenet100"):
        name = "imagenet100"
    classes = paper_results.CLASSES.get(name)
    return name if classes and run.config.get("num_classes") == classes else None


def paper_accuracy(run: Run) -> float | None:
    """Return the paper's test accuracy to compare with a run on a whole training set.

    For a run that differs from Table 1 in one key of VARIED, it is the paper's for its value. For
    others it is that of Table 1, but None if they have the paper's network and another value of
    such a key: they look like a run of the paper that does not exist.
    """
    name, loss = paper_set(run), run.config["loss"]
    number = paper_results.ACCURACY.get(loss, {}).get(name)
    if number is None:
        return None
    wanted, values = PROTOCOLS[name], run_lib.settings(run)
    off = [
        key
        for key in wanted
        if (key != "temperature" or method_of(loss).paper_temperature)
        and values[key] not in _of_table_1(key, name, loss)
    ]
    if len(off) == 1 and off[0] in VARIED:
        return VARIED[off[0]].get(name, {}).get(loss, {}).get(values[off[0]])
    known = values["backbone"] in wanted["backbone"]
    same_network = known and not {"image_size", "embedding"} & set(off)
    return None if same_network and set(VARIED) & set(off) else number


def _of_table_1(key, name, loss):
    """The values of a key with which Table 1's accuracy was reached, if the paper states them."""
    allowed = PROTOCOLS[name][key]
    if key == "backbone":
        return allowed[:1]
    accuracies = VARIED.get(key, {}).get(name, {}).get(loss)
    if not accuracies:
        return allowed
    best = paper_results.ACCURACY[loss][name]
    return [value for value, accuracy in accuracies.items() if accuracy == best]


def differences(runs: Iterable[Run]) -> str:
    """Return the sentence that says how the protocol of runs differs from the paper's."""
    protocols, differing = {}, {}
    for run in runs:
        wanted = PROTOCOLS.get(paper_set(run))
        if not wanted:
            continue
        text = f"{'/'.join(wanted['backbone'])}, {wanted['image_size'][0]} pixels, "
        text += f"{wanted['epochs'][0]:g} epochs, batch {'/'.join(map(str, wanted['batch_size']))}"
        protocols.setdefault(text, []).append(paper_set(run))
        if imbalance_factor(run) < 1 and "num_examples" in wanted:
            whole, classes = wanted["num_examples"][0], run.config["num_classes"]
            left = int(long_tail.profile(whole, classes, imbalance_factor(run)).sum())
            wanted = wanted | {"num_examples": (left,)}
        values = run_lib.settings(run)
        for key, allowed in wanted.items():
            if key == "temperature" and not method_of(values["loss"]).paper_temperature:
                continue
            if values[key] not in allowed:
                differing.setdefault(key, set()).add(format_value(values[key]))
    if not protocols:
        return ""
    papers = "; ".join(
        f"{text} ({', '.join(dict.fromkeys(sets))})" for text, sets in protocols.items()
    )
    ours = "; ".join(
        f"{key}={', '.join(sorted(values, key=natural_key))}" for key, values in differing.items()
    )
    ours = f"these runs have other values: {ours}" if ours else "these runs have the same"
    return f"The paper's protocol is {papers}; {ours}."
