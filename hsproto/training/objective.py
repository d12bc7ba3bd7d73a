"""The loss of a batch as a configuration asks for it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from hsproto import losses
from hsproto.errors import UserError
from hsproto.methods import ENCODER_LOSSES

# What each loss of `hsproto.losses` takes besides features, prototypes and labels.
_KEYWORDS = {
    "cross_entropy": ("bias",),
    "dot_regression": (),
    "normface": ("temperature", "bias"),
    "decoupled_normface": ("temperature",),
    "ntce": ("temperature", "axis_name", "queue"),
    "nonl": ("temperature", "axis_name", "queue"),
    "scl": ("temperature", "axis_name", "queue", "block_size"),
    "prototype_softmax": ("temperature", "axis_name", "num_classes"),
}


def batch_loss(
    config: ConfigDict,
    outputs: Any,
    prototypes: jax.Array | None,
    bias: jax.Array | None,
    labels: jax.Array,
    axis_name: str | None = None,
    queue: tuple[jax.Array, jax.Array] | None = None,
    log_prior: ArrayLike | None = None,
) -> losses.PerAnchor:
    """Return the loss that `config.loss` names, of a model's outputs and classifier.

    Args:
        config: The run's config.
        outputs: `models.model.Outputs` of the batch.
        prototypes: [K, D], or None for losses of the features alone.
        bias: [K] of a linear head, or None.
        labels: int [B].
        axis_name: Mapped axis over which the batch is split, or None.
        queue: (features, labels) of past batches, for the losses that take them.
        log_prior: [K] of the classes, for `config.logit_adjustment`, by which it is multiplied.
    """
    if config.logit_adjustment:
        adjustment = config.logit_adjustment * log_prior
        bias = adjustment if bias is None else bias + adjustment
    if config.balanced_lengths:
        prototypes = prototypes * balanced_lengths(labels, len(prototypes), axis_name)[:, None]
    values = {
        "temperature": config.temperature,
        "num_classes": config.num_classes,
        "block_size": config.scl_block or None,
        "axis_name": axis_name,
        "queue": queue,
        "bias": bias,
    }
    loss = getattr(losses, config.loss)
    keywords = {name: values[name] for name in _KEYWORDS[config.loss]}
    if config.loss in ENCODER_LOSSES:
        return loss(outputs.projections, labels, **keywords)
    return loss(outputs.features, prototypes, labels, **keywords)


def log_prior(counts: ArrayLike) -> np.ndarray:
    """Return the log of each class's share of the training images, float32 [K].

    Args:
        counts: Training images per class, [K].

    Raises:
        UserError: If a class has no image.
    """
    counts = np.asarray(counts, np.float64)
    if not np.all(counts > 0):
        raise UserError(
            f"logit_adjustment needs training images of every class; class {np.argmin(counts)} has "
            "none"
        )
    return np.log(counts / counts.sum()).astype(np.float32)


def balanced_lengths(
    labels: jax.Array, num_classes: int, axis_name: str | None = None
) -> jax.Array:
    """Return dot regression's prototype lengths for a batch, float32 [K]: sqrt((M/K_batch)/n_c).

    The batch has M images of K_batch classes, n_c of class c; classes without images get length 1.
    Every class of the batch then has the same weight in the loss.

    Args:
        labels: int [B].
        num_classes: K.
        axis_name: Mapped axis over which the batch is split, or None.

    Source: Yang et al. 2022, for long tails.
    """
    own = labels[:, None] == jnp.arange(num_classes)[None, :]
    counts = jnp.sum(own, axis=0, dtype=jnp.float32)
    if axis_name is not None:
        counts = jax.lax.psum(counts, axis_name)
    share = jnp.sum(counts) / jnp.maximum(jnp.sum(counts > 0), 1)
    return jnp.where(counts > 0, jnp.sqrt(share / jnp.maximum(counts, 1.0)), 1.0)
