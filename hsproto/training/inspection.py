"""What a state holds, in two numbers per array: is it finite, and a digest of its bits."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Inspection(NamedTuple):
    """A look at a state.

    Attributes:
        is_finite: Whether all its numbers are.
        digest: A number per array, by its path in the tree, which any flipped bit changes. It
            depends on content and shape alone, not on how the array is split over devices.
    """

    is_finite: bool
    digest: dict[str, int]


def inspect(state: Any) -> Inspection:
    """Look at a tree of arrays; on the devices that hold them, in one pass."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    # A program per shape: one for all arrays of a large network would compile for a minute.
    seen = jax.device_get([_inspect(leaf) for _, leaf in leaves])
    names = (jax.tree_util.keystr(path) for path, _ in leaves)
    digest = {name: int(found) for name, (_, found) in zip(names, seen, strict=True)}
    return Inspection(all(bool(finite) for finite, _ in seen), digest)


@jax.jit
def _inspect(array):
    return jnp.all(jnp.isfinite(array)), _digest(array)


def _digest(array):
    """The sum, modulo 2**32, of a mixture of each word and its place.

    For each place the mixture maps words one to one, so that no single changed word goes unseen;
    sums of integers do not depend on their order.
    """
    words = _words(array)
    places = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = math.prod(words.shape[axis + 1 :]) % 2**32
        places += lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride)
    mixed = (words + places * np.uint32(0x9E3779B1)) * np.uint32(0x85EBCA6B)
    mixed ^= mixed >> 15
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> 13
    return jnp.sum(mixed, dtype=jnp.uint32)


def _words(array):
    """An array's bits as uint32, with a last axis for numbers that are longer."""
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    bits = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    return lax.bitcast_convert_type(array, bits).astype(jnp.uint32)
