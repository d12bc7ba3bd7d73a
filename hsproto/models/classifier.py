"""A model's classifier: its prototypes, its logits, and the class it predicts."""

from typing import Any

import jax
import jax.numpy as jnp

from hsproto import prototypes
from hsproto.core import numerics
from hsproto.core.nearest import best_class, best_column, class_block_for
from hsproto.core.numerics import matmul


def predict(
    config: Any,
    features: jax.Array,
    weights: jax.Array,
    bias: jax.Array | None = None,
    model_axis: str | None = None,
) -> jax.Array:
    """Return predicted labels [B]: by inner product for cross entropy, else by cosine.

    They are -1 where no class has a score that is a number, as where a feature is not finite.

    `bias` [K] is added to the inner products, or to the cosines divided by the temperature. Inside
    `shard_map` with `model_axis`, weights and bias are those of this device's classes.

    Classes are handled `class_block` at a time, or as many as fit where [B, K] would be large.
    """
    block = config.class_block or class_block_for(features.shape[0], weights.shape[0])
    if block or model_axis is not None:

        def scores_of(columns):
            return _scores(config, features, *columns)

        return best_class(scores_of, (weights, bias), block, model_axis)
    if config.loss != "cross_entropy" and bias is None:
        return prototypes.predict(features, weights)
    return best_column(_scores(config, features, weights, bias))


def _scores(config, features, weights, bias):
    if config.loss == "cross_entropy":
        scores = matmul(features, weights.T)
    else:
        temperature = 1.0 if bias is None else config.temperature
        scores = prototypes.logits(features, weights, temperature=temperature)
    return scores if bias is None else scores + bias[None, :]


def classifier(variables: dict) -> tuple[jax.Array | None, jax.Array | None]:
    """Return (prototypes [K,D] or None, bias [K] or None) of a model's variables."""
    learned, fixed = variables["params"], variables.get("constants", {})
    return fixed.get("prototypes", learned.get("prototypes")), learned.get("bias")


def logits(
    config: Any, features: jax.Array, weights: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Return logits float32 [B, K] of the classifier that the loss of `config` trains.

    Cross entropy: z·w_c + b_c. All other losses, also with fixed prototypes: cosines divided by
    `config.temperature`, whose softmax is NormFace's probability of each class; -inf for a
    prototype of length zero. `predict` returns the class of the largest one.
    """
    if config.loss == "cross_entropy":
        products = matmul(features, weights.T)
        return products if bias is None else products + bias[None, :]
    return prototypes.logits(features, weights, temperature=config.temperature)


def rank(config, features, weights, bias=None):
    """Return (classes, cosines), int and float32 [B, K], likeliest first by `logits`."""
    order = jnp.argsort(-logits(config, features, weights, bias), axis=1)
    return order, jnp.take_along_axis(numerics.cosines(features, weights), order, axis=1)
