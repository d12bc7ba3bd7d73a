"""The losses that hsproto trains with, once: names, looks, heads, and what each goes with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A loss, as every other module knows it.

    Attributes:
        title: Its name in the paper's words.
        color: In every figure. Okabe and Ito's colors, which color-blind readers can tell apart,
            but gray for their yellow: a thin yellow line on white is hard to see.
        marker: In every figure, as matplotlib names it.
        heads: The classifier heads it can train; the first is the default.
        encoder: Whether it is a loss of the features alone, whose classifier is fitted afterwards.
        softmax: Whether it is a softmax over classes, whose logits can be adjusted by the
            frequencies of the classes.
        queue: Whether it takes past embeddings beside the batch.
        temperature: Whether it has one.
        paper_temperature: Whether the paper's protocol states its temperature.
    """

    title: str
    color: str
    marker: str
    heads: tuple[str, ...]
    encoder: bool = False
    softmax: bool = False
    queue: bool = False
    temperature: bool = True
    paper_temperature: bool = False


HEADS = ("prototypes", "etf", "linear", "none")
# Losses on the sphere have no bias to give a linear head, and dot regression with learnable
# prototypes is solved by prototypes of length zero.
_ON_SPHERE = ("prototypes", "etf")

# In the paper's order, then those that it does not compare.
METHODS = {
    "cross_entropy": Method(
        "CE", "#000000", "o", ("linear", "prototypes", "etf"), softmax=True, temperature=False
    ),
    "dot_regression": Method("ETF+DR", "#7f7f7f", "X", ("etf",), temperature=False),
    "normface": Method(
        "NormFace", "#56b4e9", "s", _ON_SPHERE, softmax=True, paper_temperature=True
    ),
    "ntce": Method("NTCE", "#e69f00", "^", _ON_SPHERE, queue=True, paper_temperature=True),
    "nonl": Method("NONL", "#d55e00", "D", _ON_SPHERE, queue=True, paper_temperature=True),
    "decoupled_normface": Method("decoupled NormFace", "#009e73", "P", _ON_SPHERE),
    "scl": Method("SCL", "#0072b2", "v", ("none",), encoder=True, queue=True),
    "prototype_softmax": Method("prototype softmax", "#cc79a7", "*", ("none",), encoder=True),
}

LOSSES = tuple(METHODS)
ENCODER_LOSSES = tuple(name for name, method in METHODS.items() if method.encoder)
QUEUE_LOSSES = tuple(name for name, method in METHODS.items() if method.queue)
SOFTMAX_LOSSES = tuple(name for name, method in METHODS.items() if method.softmax)
LOSS_HEADS = {name: method.heads for name, method in METHODS.items()}


def method_of(loss: str) -> Method:
    """Return the method of a loss; one that this version does not know goes by its own name."""
    return METHODS.get(loss) or Method(loss, "#7f7f7f", "x", ())
