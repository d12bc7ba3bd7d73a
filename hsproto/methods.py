"""The losses that hsproto trains with: names, heads and what each of them goes with, once."""

from typing import NamedTuple

TEMPERATURE_COMPARED = ("normface", "ntce", "nonl")


# The heads each loss can use; the first is the one that an empty `head` stands for. The losses on
# the sphere have no bias to give a linear head, and dot regression with learnable prototypes is
# solved by prototypes of length zero.
LOSS_HEADS = {
    "cross_entropy": ("linear", "prototypes", "etf"),
    "normface": ("prototypes", "etf"),
    "decoupled_normface": ("prototypes", "etf"),
    "ntce": ("prototypes", "etf"),
    "nonl": ("prototypes", "etf"),
    "scl": ("none",),
    "prototype_softmax": ("none",),
    "dot_regression": ("etf",),
}
HEADS = ("prototypes", "etf", "linear", "none")


LOSSES = (
    "cross_entropy",
    "normface",
    "decoupled_normface",
    "ntce",
    "nonl",
    "scl",
    "prototype_softmax",
    "dot_regression",
)
# Losses of the features alone: they train an encoder, whose classifier comes afterwards.
ENCODER_LOSSES = ("scl", "prototype_softmax")


# Losses that can hold past embeddings against the batch.
QUEUE_LOSSES = ("ntce", "nonl", "scl")
# Losses that are a softmax over classes, whose logits can be adjusted by the classes' frequencies.
SOFTMAX_LOSSES = ("cross_entropy", "normface")


class LossStyle(NamedTuple):
    """A loss in every picture: its name in the paper's words, its colour and its marker."""

    name: str
    color: str
    marker: str


# In the paper's order. Okabe and Ito's colours, which colour-blind readers tell apart, but grey for
# their yellow: of that a thin line on white is hard to see.
STYLES = {
    "cross_entropy": LossStyle("CE", "#000000", "o"),
    "dot_regression": LossStyle("ETF+DR", "#7f7f7f", "X"),
    "normface": LossStyle("NormFace", "#56b4e9", "s"),
    "ntce": LossStyle("NTCE", "#e69f00", "^"),
    "nonl": LossStyle("NONL", "#d55e00", "D"),
    "decoupled_normface": LossStyle("decoupled NormFace", "#009e73", "P"),
    "scl": LossStyle("SCL", "#0072b2", "v"),
    "prototype_softmax": LossStyle("prototype softmax", "#cc79a7", "*"),
}


WITHOUT_TEMPERATURE = ("cross_entropy", "dot_regression")
