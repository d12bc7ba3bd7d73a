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
_BY_CLASS = ("class_block", "model_axis")
_KEYWORDS = {
    "cross_entropy": ("bias", *_BY_CLASS),
    "dot_regression": (),
    "normface": ("temperature", "bias", *_BY_CLASS),
    "decoupled_normface": ("temperature", *_BY_CLASS),
    "ntce": ("temperature", "axis_name", "queue", *_BY_CLASS),
    "nonl": ("temperature", "axis_name", "queue", *_BY_CLASS),
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
    model_axis: str | None = None,
) -> losses.PerAnchor:
    """Return the loss that `config.loss` names, of a model's outputs and classifier.

    Args:
        config: The run's config.
        outputs: `models.model.Outputs` of the batch.
        prototypes: [K, D], or None for losses of the features alone.
        bias: [K] of a linear head, or None.
        labels: int [B], or soft [B, K] (`mix`).
        axis_name: Mapped axis over which the batch is split, or None.
        queue: (features, labels) of past batches, for the losses that take them.
        log_prior: [K] of the classes, for `config.logit_adjustment`, by which it is multiplied.
        model_axis: Mapped axis over which the classes are split, or None. Prototypes, bias and
            `log_prior` are then those of this device.
    """
    if config.label_smoothing:
        labels = smooth(labels, config.num_classes, config.label_smoothing)
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
        "class_block": config.class_block or None,
        "model_axis": model_axis,
    }
    loss = getattr(losses, config.loss)
    keywords = {name: values[name] for name in _KEYWORDS[config.loss]}
    if config.loss in ENCODER_LOSSES:
        return loss(outputs.projections, labels, **keywords)
    return loss(outputs.features, prototypes, labels, **keywords)


def smooth(labels: jax.Array, num_classes: int, strength: float) -> jax.Array:
    """Return soft labels [B, K] of labels [B] or [B, K]: a share `strength` for all classes alike.

    A row without a class, as of a label of -1, stays without one.
    """
    shares = soft(labels, num_classes)
    return (1 - strength) * shares + strength / num_classes * jnp.sum(shares, -1, keepdims=True)


def soft(labels: jax.Array, num_classes: int) -> jax.Array:
    """Return labels int [...] as rows [..., K] of 0 and 1; soft ones as they are."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        return labels
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def mix(config: ConfigDict, key: jax.Array, rows: jax.Array) -> jax.Array:
    """Return rows [B, ...], each mixed with another one of the batch, if `mixup` says so.

    s·x_i + (1-s)·x_j, with one s of Beta(mixup, mixup) per key and j = B-1-i, which is random since
    the order of a batch is. Images and labels are mixed alike by the same key. Labels int [B]
    become soft ones [B, K].

    Source: Zhang et al. 2018.
    """
    if not config.mixup:
        return rows
    share = jax.random.beta(key, config.mixup, config.mixup)
    rows = soft(rows, config.num_classes)
    return share * rows + (1 - share) * jnp.flip(rows, axis=0)


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
