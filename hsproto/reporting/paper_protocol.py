"""What a run was trained on and how, in the words of tables, and how far that is from the paper's.

Reads configs alone, of `run.Run`.
"""

from hsproto.data import long_tail
from hsproto.methods import method_of
from hsproto.reporting import paper_results
from hsproto.reporting.table import format_value, natural_key
from hsproto.runs import run as run_lib
from hsproto.runs.run import imbalance_factor

_CIFAR = dict(backbone=("resnet18",), image_size=(32,), num_examples=(50_000,), epochs=(1000.0,))
_CIFAR |= dict(batch_size=(512,), temperature=paper_results.TEMPERATURES, embedding=("pooled",))
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


# What the paper varies in tables of its own, and its figures there.
VARIED = {
    "temperature": paper_results.TEMPERATURE,
    "batch_size": paper_results.BATCH_SIZE,
    "backbone": paper_results.BACKBONE,
}


def paper_set(run):
    """The paper's data set, as `published` calls it, that a run was trained on, or None."""
    name = run.config["dataset"]
    if run.config.get("class_list", "").startswith("imagenet100"):
        name = "imagenet100"
    classes = run.config.get("num_classes")
    return (
        name if name in paper_results.CLASSES and classes == paper_results.CLASSES[name] else None
    )


def paper_accuracy(run):
    """The paper's test accuracy beside that of a run on a whole training set, or None.

    Of a run that differs from Table 1's in nothing but a key of VARIED, what the paper has for its
    value. Others have Table 1's, but for those of the paper's network with another such value: they
    look like a run of the paper that is not there.
    """
    name, loss = paper_set(run), run.config["loss"]
    figure = paper_results.ACCURACY.get(loss, {}).get(name)
    if figure is None:
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
    return None if same_network and set(VARIED) & set(off) else figure


def _of_table_1(key, name, loss):
    """The values of a key of Table 1's accuracy: the best ones, where they are told."""
    allowed = PROTOCOLS[name][key]
    if key == "backbone":
        return allowed[:1]
    told = VARIED.get(key, {}).get(name, {}).get(loss)
    if not told:
        return allowed
    return [value for value in told if told[value] == paper_results.ACCURACY[loss][name]]


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
    if not told:
        return ""
    papers = "; ".join(f"{text} ({', '.join(dict.fromkeys(sets))})" for text, sets in told.items())
    ours = "; ".join(
        f"{key}={', '.join(sorted(values, key=natural_key))}" for key, values in differing.items()
    )
    ours = f"these runs have other values: {ours}" if ours else "these runs have the same"
    return f"The paper's protocol is {papers}; {ours}."
