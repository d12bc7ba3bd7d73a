"""The metrics that hsproto reports, once: what each means and how it is shown.

`hsproto.geometry.neural_collapse` computes those of the geometry, `hsproto.geometry.optimum` gives
their values at collapse.
"""

import math
from dataclasses import dataclass
from typing import TypeGuard


@dataclass(frozen=True)
class Metric:
    """A metric of a split.

    Attributes:
        meaning: What it is, in a line.
        title: Its name in figures and on the page; empty where it stands in neither.
        column: Its name in the report's tables, the paper's where the paper has it.
        digits: Decimals in the report's tables; None: four, or a power of ten for small values.
        rises: Whether it rises to its value at collapse; otherwise it falls.
        log_scale: Whether it falls to 0 over orders of magnitude, best on a log scale.
        uncollapsed: Its distance from the optimum without any collapse; None: as far as the optimum
            is from 0.
    """

    meaning: str
    title: str = ""
    column: str = ""
    digits: int | None = None
    rises: bool = False
    log_scale: bool = False
    uncollapsed: float | None = None


# In the order in which a reader asks: is it right, is it collapsed, do prototypes and means agree,
# do they form a simplex.
METRICS = {
    "accuracy": Metric("share of images classified correctly", "accuracy %", rises=True),
    "accuracy_class_means": Metric(
        "the same by the nearest training class mean", "by class means %", rises=True
    ),
    "instance_alignment": Metric(
        "mean squared distance within a class",
        "instance alignment", "inst-align", log_scale=True, uncollapsed=2.0,
    ),
    "weight_alignment": Metric(
        "mean squared distance image to prototype",
        "weight alignment", "w-align", log_scale=True, uncollapsed=2.0,
    ),
    "class_alignment": Metric(
        "squared distance prototype to class mean", column="class-align", log_scale=True
    ),
    "nc1": Metric(
        "within- over between-class scatter", "NC1", "NC1", log_scale=True, uncollapsed=1.0
    ),
    "nc2_equinorm": Metric("spread of the class means' lengths", log_scale=True),
    "nc2_equiangular": Metric(
        "deviation of their angles from a simplex", "NC2 equiangular", log_scale=True,
        uncollapsed=1.0,
    ),
    "nc3": Metric(
        "distance of prototypes from class means", "NC3", log_scale=True, uncollapsed=1.0
    ),
    "nc4": Metric("disagreement with the nearest class mean", log_scale=True),
    "cdnv": Metric("class-distance normalized variance", log_scale=True),
    "erank_intra": Metric("effective rank within classes", "rank within classes", "intra", 2),
    "erank_inter": Metric(
        "effective rank of the class means", "rank of class means", "inter", 2, rises=True
    ),
    "erank_weights": Metric(
        "effective rank of the prototypes", "rank of prototypes", "weights", 2, rises=True
    ),
    "cosine_means_mean": Metric("cosine between class means, mean"),
    "cosine_means_std": Metric("cosine between class means, spread", log_scale=True),
    "cosine_prototypes_mean": Metric(
        "cosine between prototypes, mean", "prototype cosine", "prototype cosine", uncollapsed=1.0
    ),
    "cosine_prototypes_std": Metric("cosine between prototypes, spread", log_scale=True),
    "mir": Metric("mutual information ratio", column="MIR"),
    "mir_gap": Metric(
        "the same, less its value at collapse", "MIR gap", "MIR gap", uncollapsed=1.0
    ),
    "mir_centered": Metric("the same of centered prototypes"),
    "hdr": Metric("entropy difference ratio", column="HDR", log_scale=True),
    "hdr_centered": Metric("the same of centered prototypes", log_scale=True),
}  # fmt: skip

# Of imbalanced training sets: accuracies by the number of a class's training images, and with
# logits adjusted after training. They stand before the others.
_SHOTS = {
    "many": "the same, classes of over 100 images",
    "medium": "the same, classes of 20 to 100 images",
    "few": "the same, classes of under 20 images",
}
_ACCURACIES = {
    "accuracy": METRICS["accuracy"],
    "accuracy_class_means": METRICS["accuracy_class_means"],
    "accuracy_adjusted": Metric("by logits adjusted after training", rises=True),
}
LONG_TAIL = {
    name: metric
    for accuracy, whole in _ACCURACIES.items()
    for name, metric in [
        (accuracy, whole),
        *((f"{accuracy}_{shot}", Metric(text, rises=True)) for shot, text in _SHOTS.items()),
    ]
}

# Where the metrics stand, each in the order of the place.
# The columns of the geometry table: the paper's Table 3, then what these hide.
TABLE_COLUMNS = (
    "erank_intra", "erank_inter", "erank_weights", "weight_alignment", "class_alignment",
    "instance_alignment", "mir", "hdr", "mir_gap", "nc1", "cosine_prototypes_mean",
)  # fmt: skip
# The panels of the figure of dynamics (paper Figure 2).
DYNAMICS = (
    "instance_alignment", "weight_alignment", "nc1", "erank_inter", "erank_weights",
    "cosine_prototypes_mean",
)  # fmt: skip
# Those whose convergence is measured (paper Table 7).
CONVERGENCE = (
    "instance_alignment", "weight_alignment", "erank_weights", "erank_intra", "erank_inter",
)  # fmt: skip
# The page's table of methods: each metric with its split.
PAGE_COLUMNS = {
    "accuracy": "test",
    "accuracy_class_means": "test",
    "nc1": "train",
    "instance_alignment": "train",
    "weight_alignment": "train",
    "nc2_equiangular": "train",
    "nc3": "train",
    "erank_inter": "train",
    "erank_weights": "train",
    "cosine_prototypes_mean": "train",
    "mir_gap": "train",
}


def defined(value: float | None) -> TypeGuard[float]:
    """Return whether a value is a finite number."""
    return value is not None and math.isfinite(value)


def format_number(value: float | None, digits: int | None = None) -> str:
    """Return a number as text; what is undefined is a dash.

    Args:
        value: The number, or None.
        digits: Decimals; None: four, or a power of ten for small values.
    """
    if not defined(value):
        return "-"
    if digits is not None:
        return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no -0.00
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"
