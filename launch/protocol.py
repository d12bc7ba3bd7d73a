"""What the studies behind docs/results compare, fixed before any of their runs: data and values.

docs/results/protocol.md is the same in words. A cell is one training run; its name is that of its
workdir. Trials choose a method's values on held-out rows of the training set, so that no test set
is read for them; all runs that count use what was chosen.
"""

import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

HELD_OUT = 0.1  # of the training rows of each class, in trials


class Range(NamedTuple):
    """Where a value is drawn from, evenly in its logarithm."""

    low: float
    high: float

    def at(self, share: float) -> float:
        return self.low * (self.high / self.low) ** share


class Method(NamedTuple):
    """A loss with what is searched for it.

    Attributes:
        title: Its name in tables.
        values: Keys of the config that make it.
        search: The ranges of the keys whose values trials draw.
    """

    title: str
    values: dict[str, str]
    search: dict[str, Range]


_DECAY = {"weight_decay": Range(1e-6, 1e-3)}
# Rates are per 256 rows. The ranges were placed by the pilot that protocol.md tells of.
_SPHERE = {"base_lr": Range(0.01, 1.0), "temperature": Range(0.03, 0.3)} | _DECAY
_CROSS_ENTROPY = {"base_lr": Range(0.005, 0.5)} | _DECAY

METHODS = {
    "ce": Method("CE", {"loss": "cross_entropy"}, _CROSS_ENTROPY),
    "ce_smoothed": Method(
        "CE, label smoothing",
        {"loss": "cross_entropy"},
        _CROSS_ENTROPY | {"label_smoothing": Range(0.02, 0.3)},
    ),
    "etf_dr": Method("ETF+DR", {"loss": "dot_regression"}, {"base_lr": Range(0.1, 10.0)} | _DECAY),
    "normface": Method("NormFace", {"loss": "normface"}, _SPHERE),
    "decoupled_normface": Method("decoupled NormFace", {"loss": "decoupled_normface"}, _SPHERE),
    "ntce": Method("NTCE", {"loss": "ntce"}, _SPHERE),
    "nonl": Method("NONL", {"loss": "nonl"}, _SPHERE),
    "scl_fp": Method("SCL+FP", {"loss": "scl"}, _SPHERE),
}
BASELINE = "ce"
QUEUED = ("ntce", "nonl")  # whose negatives are instances, past ones too


class Head(NamedTuple):
    """What is trained, and how often.

    Attributes:
        title: In words.
        values: Keys of the config.
        sets: Those that are searched and run.
        recipe: Of configs/, on images; empty: `hsproto head` on features.
        trials: Of each method on each set.
        seeds: Of the runs that count.
        trial_values: Keys of trials alone.
        search: Ranges in the place of a method's own.
    """

    title: str
    values: dict[str, str]
    sets: tuple[str, ...]
    recipe: str = ""
    trials: int = 12
    seeds: range = range(5)
    trial_values: dict[str, str] = {"validation_share": str(HELD_OUT)}
    search: dict[str, dict[str, Range]] = {}


SETS = ("cifar100", "cifar10", "fashion_mnist")
CLASSES = {"cifar100": 100, "cifar10": 10, "fashion_mnist": 10}
_SHORT = {"epochs": "10", "batch_size": "512"}
_STEEP = {"base_lr": Range(0.1, 3.0)}
HEADS = {
    "linear": Head("linear, signed", _SHORT | {"embedding": "signed"}, SETS),
    "mlp": Head(
        "hidden layer, ReLU",
        _SHORT | {"embedding": "pooled", "hidden_layers": "512"},
        ("cifar100",),
    ),
    "scratch": Head(
        "conv net from scratch",
        {
            "epochs": "30",
            "batch_size": "256",
            "crop_scale": "0.4/1",
            "checkpoint_every_epochs": "5",
        },
        ("cifar100", "cifar10"),
        recipe="small",
        trials=6,
        seeds=range(3),
        trial_values={"epochs": "5", "warmup_epochs": "1"},
        search={"ce": {"base_lr": Range(0.03, 1.0)}}
        | dict.fromkeys(("normface", "ntce", "nonl"), _STEEP),
    ),
}
RATIOS = ("0.1", "0.02", "0.01")  # of long tails
NEW_CLASSES = 10  # of 100: the last, added without training
SHOTS = (1, 10)
BY_IMAGE = "by_image"  # in measured.json: {metric: [variants of an image, right ones of each]}


class Study(NamedTuple):
    """A comparison: which variants of the training of which heads, sets and methods.

    Attributes:
        title: In words.
        head: Of HEADS.
        sets: The sets.
        methods: The methods.
        variants: {name: further values of the config}, each with all seeds.
        measure: What is measured on each run beside accuracy and geometry, of `measure_cells.py`.
        seeds: None: the head's.
    """

    title: str
    head: str
    sets: tuple[str, ...]
    methods: tuple[str, ...]
    variants: dict[str, dict[str, str]]
    measure: tuple[str, ...] = ()
    seeds: range | None = None


ALL = tuple(METHODS)
# Of fewer rows: twice the epochs.
_TAILS = {f"rho={ratio}": {"imbalance_factor": ratio, "epochs": "20"} for ratio in RATIOS}
# In the place of what was chosen.
_CAUSES = {
    f"batch {size}, temperature {temperature}": {"batch_size": size, "temperature": temperature}
    for size in ("128", "2048")
    for temperature in ("0.05", "0.1", "0.2")
} | {
    "16 images per class": {"sampler": "classes", "images_per_class": "16"},
    "32 images per class": {"sampler": "classes", "images_per_class": "32"},
    "no weight decay": {"weight_decay": "0"},
    "weight decay 0.003": {"weight_decay": "0.003"},
    "ReLU": {"embedding": "pooled", "hidden_layers": "128"},
    "queue of 4096": {"queue_size": "4096"},
}
# In the order in which they are run.
STUDIES = {
    "accuracy": Study(
        "balanced training sets",
        "linear",
        SETS,
        ALL,
        {"": {}},
        ("calibration", "retrieval", "ood", "transfer"),
    ),
    "longtail": Study("long-tailed training sets", "linear", ("cifar100", "cifar10"), ALL, _TAILS),
    "longtail_adjusted": Study(
        "long tails with logit adjustment",
        "linear",
        ("cifar100", "cifar10"),
        ("ce", "normface"),
        {f"{name},adjusted": values | {"logit_adjustment": "1"} for name, values in _TAILS.items()},
    ),
    "longtail_balanced": Study(
        "long tails with class-balanced batches",
        "linear",
        ("cifar100", "cifar10"),
        ALL,
        {f"{name},balanced": values | {"sampler": "classes"} for name, values in _TAILS.items()},
    ),
    "new_classes": Study(
        "ten of a hundred classes added without training",
        "linear",
        ("cifar100",),
        ALL,
        {"first90": {"class_list": "first90"}},
        ("new_classes",),
    ),
    "coarse": Study(
        "trained on superclasses",
        "linear",
        ("cifar100",),
        ALL,
        {"coarse": {"class_groups": "cifar100_coarse"}},
        ("fine_classes",),
    ),
    "robustness": Study(
        "corrupted test images",
        "linear",
        ("cifar100",),
        ALL,
        {"": {}},
        ("corruptions",),
    ),
    "causes": Study(
        "what accuracy depends on beside the loss",
        "linear",
        ("cifar100",),
        ("normface", "ntce", "nonl"),
        _CAUSES,
        seeds=range(3),
    ),
    "mlp": Study(
        "balanced training sets, behind a hidden layer", "mlp", ("cifar100",), ALL, {"": {}}
    ),
    "scratch": Study(
        "a network from scratch",
        "scratch",
        ("cifar100", "cifar10"),
        ("ce", "normface", "ntce", "nonl"),
        {"": {}},
        ("calibration", "retrieval"),
    ),
}
# Studies whose results stand together, by the name of their records.
REGIMES = {
    "heads": tuple(name for name in STUDIES if name != "scratch"),
    "scratch": ("scratch",),
}


class Cell(NamedTuple):
    """A training run.

    Attributes:
        name: Of its workdir.
        set: The data set.
        head: Of HEADS.
        method: Of METHODS.
        study: Of STUDIES; empty for a trial.
        variant: Of the study's.
        number: Of the trial, or the seed.
        values: Keys of the config, as text.
        measure: As of the study.
    """

    name: str
    set: str
    head: str
    method: str
    study: str
    variant: str
    number: int
    values: dict[str, str]
    measure: tuple[str, ...] = ()


def drawn(head: str, method: str, trial: int) -> dict[str, str]:
    """Return the searched values of a trial: a Halton sequence, the same for all sets."""
    search = METHODS[method].search | HEADS[head].search.get(method, {})
    return {
        key: f"{search[key].at(_halton(trial + 1, base)):.4g}"
        for key, base in zip(search, (2, 3, 5), strict=False)
    }


def _halton(index, base):
    """The radical inverse of `index`: shares of 0..1 that fill the range evenly."""
    share, digit = 0.0, 1.0 / base
    while index:
        index, rest = divmod(index, base)
        share += rest * digit
        digit /= base
    return share


def trials(head: str, dataset: str, method: str) -> list[Cell]:
    """Return the trials that choose a method's values for a head on a set."""
    found, of = [], HEADS[head]
    for trial in range(of.trials):
        values = of.values | METHODS[method].values | drawn(head, method, trial)
        values |= {"seed": "0", "snapshot_points": "0"} | of.trial_values
        name = f"trials/{head}/{dataset}/{method}/{trial:02d}"
        found.append(Cell(name, dataset, head, method, "", "", trial, values))
    return found


def runs(study: str, dataset: str, method: str, chosen: dict[str, str]) -> list[Cell]:
    """Return the runs of a method that count, with the values that its trials have chosen."""
    rows = STUDIES[study]
    found, of = [], HEADS[rows.head]
    for variant, further in rows.variants.items():
        if "queue_size" in further and method not in QUEUED:
            continue
        for seed in rows.seeds or of.seeds:
            values = of.values | METHODS[method].values | chosen | further
            values |= {"seed": str(seed), "snapshot_points": "0"}
            name = f"{study}/{dataset}/{method}/{variant or 'all'},seed={seed}"
            found.append(
                Cell(name, dataset, rows.head, method, study, variant, seed, values, rows.measure)
            )
    return found


def groups(studies: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield the (study, set, method) of studies, in the order in which they are run."""
    for study in studies:
        for dataset in STUDIES[study].sets:
            for method in STUDIES[study].methods:
                yield study, dataset, method


def is_finished(cell: Cell, out: pathlib.Path) -> bool:
    """Return whether a cell has been trained and measured, or has diverged."""
    last = "measured.json" if cell.measure else "summary.json"
    return (out / cell.name / "failed.json").exists() or (out / cell.name / last).exists()


def best(accuracies: list[float | None]) -> int:
    """Return the trial of the highest accuracy on held-out rows; the first of equal ones.

    A trial that diverged has None.

    Raises:
        ValueError: All diverged.
    """
    found: list[Any] = [-math.inf if value is None else value for value in accuracies]
    if not any(map(math.isfinite, found)):
        raise ValueError("every trial diverged")
    return found.index(max(found))
