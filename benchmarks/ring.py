"""SCL with the keys going round a ring of devices, to be held against the library's gathering SCL.

No device ever holds more keys than two devices' shares. The backward pass sends the keys round once
more, with three numbers a row, so that each device adds up the gradient of its own rows and no
gradient travels: matrix products and bytes are the fewest that a ring can do with.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from hsproto.core.numerics import l2_normalize, matmul


def scl_mean(features, labels, temperature, axis_name):
    """Mean SCL of the whole batch, inside `jax.shard_map`; every row must count.

    Sums are shifted by 1/temperature, the largest that a logit can be, and not by their maximum:
    good for temperatures from 0.03.
    """
    values = _anchors(l2_normalize(features), labels, temperature, axis_name)
    return lax.pmean(jnp.mean(values), axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _anchors(anchors, labels, temperature, axis_name):
    return _forward(anchors, labels, temperature, axis_name)[0]


def _forward(anchors, labels, temperature, axis_name):
    rows = jnp.arange(anchors.shape[0])

    def add(found, keys, turn):
        keys, key_labels = keys
        logits = matmul(anchors, keys.T) / temperature
        others = (turn > 0) | (rows[:, None] != rows[None, :])
        positive = others & (labels[:, None] == key_labels[None, :])
        total, attraction, count = found
        total += jnp.sum(jnp.where(others, jnp.exp(logits - 1 / temperature), 0.0), axis=1)
        attraction += jnp.sum(jnp.where(positive, logits, 0.0), axis=1)
        return total, attraction, count + jnp.sum(positive, axis=1, dtype=jnp.float32)

    zero = jnp.zeros_like(anchors[:, 0])
    total, attraction, count = _round(add, (zero, zero, zero), (anchors, labels), axis_name)
    lse = jnp.log(total) + 1 / temperature
    return lse - attraction / count, (anchors, labels, lse, count)


def _backward(temperature, axis_name, kept, slopes):
    anchors, labels, lse, count = kept
    rows = jnp.arange(anchors.shape[0])

    def add(gradient, keys, turn):
        keys, key_labels, key_lse, key_slopes, key_pulls = keys
        logits = matmul(anchors, keys.T) / temperature
        others = (turn > 0) | (rows[:, None] != rows[None, :])
        # The slope of S_ij as a logit of anchor i, and of key j, whose logit it is too.
        own = slopes[:, None] * jnp.exp(logits - lse[:, None])
        theirs = key_slopes[None, :] * jnp.exp(logits - key_lse[None, :])
        pull = (slopes / count)[:, None] + key_pulls[None, :]
        pull = jnp.where(labels[:, None] == key_labels[None, :], pull, 0.0)
        return gradient + matmul(jnp.where(others, own + theirs - pull, 0.0) / temperature, keys)

    keys = anchors, labels, lse, slopes, slopes / count
    return _round(add, jnp.zeros_like(anchors), keys, axis_name), None


def _round(add, start, keys, axis_name):
    """Folds `add(found, keys, turn)` over the keys of all devices, one's own first."""
    devices = lax.axis_size(axis_name)
    onwards = [(i, (i + 1) % devices) for i in range(devices)]

    def turn(carry, number):
        found, keys = carry
        keys = jax.tree.map(lambda x: lax.ppermute(x, axis_name, onwards), keys)
        return (add(found, keys, number), keys), None

    found = add(start, keys, 0)
    return lax.scan(turn, (found, keys), jnp.arange(1, devices))[0][0]


_anchors.defvjp(_forward, _backward)
