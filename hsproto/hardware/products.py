"""FLOPs of a traced program: its matrix products and convolutions, by the precision they ask for.

Read from the program as JAX traced it, where loops say how often they run, which a compiler's own
count does not know. Two FLOPs are one multiplication and addition.
"""

import collections
import math
from typing import Any

from jax import lax
from jax.extend import core

# What a product runs at; `Chip` of `topologies` has the rate of each.
BFLOAT16, DEFAULT, HIGHEST = "bfloat16", "float32 at default precision", "float32"


def of_chip(jaxpr: Any, chips: int) -> tuple[dict[str, float], float]:
    """Return ({precision: FLOPs}, FLOPs of the loss) that each chip does.

    Args:
        jaxpr: of a step (`jit(f).trace(...).jaxpr`), whose batch is split over the chips. What
            stands in a `shard_map`, as the loss does, is written for one chip.
        chips: How many there are.
    """
    found = collections.Counter()
    _count(jaxpr, 1 / chips, False, found)
    by_precision = collections.Counter()
    for (precision, _), flops in found.items():
        by_precision[precision] += flops
    return dict(by_precision), sum(f for (_, in_loss), f in found.items() if in_loss)


def _count(jaxpr, factor, in_loss, found):
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name in _FLOPS:
            flops = _FLOPS[name](equation)
            found[_precision(equation), in_loss] += factor * flops
            continue
        inner = factor * params["length"] if name == "scan" else factor
        sharded = name == "shard_map"
        for part in _jaxprs(params):
            _count(part, 1.0 if sharded else inner, in_loss or sharded, found)


def _jaxprs(params):
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each


def _dot(equation):
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * _size(equation.outvars[0]) * math.prod(left[axis] for axis in contracted)


def _convolution(equation):
    kernel = equation.invars[1].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    # Of a dilated input, as a strided layer's gradient has, most are zeros.
    dilation = math.prod(equation.params["lhs_dilation"])
    return 2 * _size(equation.outvars[0]) * math.prod(kernel) / features / dilation


_FLOPS = {"dot_general": _dot, "conv_general_dilated": _convolution}


def _size(variable):
    return math.prod(variable.aval.shape)


def _precision(equation):
    if equation.invars[0].aval.dtype.itemsize <= 2:
        return BFLOAT16
    asked = equation.params["precision"]
    asked = asked if isinstance(asked, tuple) else (asked,)
    return HIGHEST if lax.Precision.HIGHEST in asked else DEFAULT
