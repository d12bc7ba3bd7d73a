"""The table of losses that hsproto trains with: titles, styles, heads, and what each supports."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A loss.

    Attributes:
        title: Its name in tables and figures, the paper's where it has one.
        color: Its color in every figure. Okabe and Ito's, which color-blind readers can
            distinguish, but gray in place of yellow, which is hard to see as a thin line on white.
        marker: Its marker in every figure, as matplotlib names it.
        heads: The classifier heads it can train; the first is the default.
        encoder: Whether it trains the features alone and the classifier is fitted afterwards.
        softmax: Whether it is a softmax over classes, whose logits can be adjusted by the class
            frequencies.
        queue: Whether it can use a queue of past embeddings.
        instances: Whether its negatives are other images of the batch.
        temperature: Whether it has a temperature.
        paper_temperature: Whether the paper's protocol states its temperature.
    """

    title: str
    color: str
    marker: str
    heads: tuple[str, ...]
    encoder: bool = False
    softmax: bool = False
    queue: bool = False
    instances: bool = False
    temperature: bool = True
    paper_temperature: bool = False


HEADS = ("prototypes", "etf", "linear", "none")
# Losses on the sphere have no bias for a linear head. Dot regression has fixed prototypes alone:
# learnable ones would solve it by their length going to zero.
_ON_SPHERE = ("prototypes", "etf")
_INSTANCES = {"queue": True, "instances": True}

# In the paper's order, then those that the paper does not compare.
METHODS = {
    "cross_entropy": Method(
        "CE", "#000000", "o", ("linear", "prototypes", "etf"), softmax=True, temperature=False
    ),
    "dot_regression": Method("ETF+DR", "#7f7f7f", "X", ("etf",), temperature=False),
    "normface": Method(
        "NormFace", "#56b4e9", "s", _ON_SPHERE, softmax=True, paper_temperature=True
    ),
    "ntce": Method(
        "NTCE", "#e69f00", "^", _ON_SPHERE, queue=True, instances=True, paper_temperature=True
    ),
    "nonl": Method(
        "NONL", "#d55e00", "D", _ON_SPHERE, queue=True, instances=True, paper_temperature=True
    ),
    "decoupled_normface": Method("decoupled NormFace", "#009e73", "P", _ON_SPHERE),
    "scl": Method("SCL", "#0072b2", "v", ("none",), encoder=True, **_INSTANCES),
    "prototype_softmax": Method(
        "prototype softmax", "#cc79a7", "*", ("none",), encoder=True, instances=True
    ),
}

LOSSES = tuple(METHODS)
ENCODER_LOSSES = tuple(name for name, method in METHODS.items() if method.encoder)
QUEUE_LOSSES = tuple(name for name, method in METHODS.items() if method.queue)
SOFTMAX_LOSSES = tuple(name for name, method in METHODS.items() if method.softmax)
# Dot regression pulls to one prototype, and the encoder losses compare classes for equality.
SOFT_LABEL_LOSSES = tuple(
    name for name in LOSSES if name != "dot_regression" and name not in ENCODER_LOSSES
)
# Those that can go through classes in blocks, and share them among devices.
BLOCK_LOSSES = SOFT_LABEL_LOSSES
LOSS_HEADS = {name: method.heads for name, method in METHODS.items()}


def method_of(loss: str) -> Method:
    """Return the method of a loss; an unknown loss has its own name as its title."""
    return METHODS.get(loss) or Method(loss, "#7f7f7f", "x", ())
