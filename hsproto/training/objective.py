"""The loss of a batch as a configuration asks for it."""

import jax
import jax.numpy as jnp
import numpy as np

from hsproto import losses
from hsproto.errors import UserError


def batch_loss(
    config, outputs, prototypes, bias, labels, axis_name=None, queued=None, log_prior=None
):
    """PerAnchor loss of a batch by the config's `loss`, from a model's outputs and classifier.

    `queued`: (features, labels) of a queue, for those losses that take one. `log_prior` [K], of
    the classes, is what `config.logit_adjustment` times is added to the logits.
    """
    if config.logit_adjustment:
        adjustment = config.logit_adjustment * log_prior
        bias = adjustment if bias is None else bias + adjustment
    if config.loss == "cross_entropy":
        return losses.cross_entropy(outputs.features, prototypes, labels, bias=bias)
    if config.loss == "dot_regression":
        if config.balanced_lengths:
            lengths = balanced_lengths(labels, len(prototypes), axis_name)
            prototypes = prototypes * lengths[:, None]
        return losses.dot_regression(outputs.features, prototypes, labels)
    if config.loss == "normface":
        return losses.normface(
            outputs.features, prototypes, labels, temperature=config.temperature, bias=bias
        )
    if config.loss == "decoupled_normface":
        return losses.decoupled_normface(
            outputs.features, prototypes, labels, temperature=config.temperature
        )
    whole = dict(temperature=config.temperature, axis_name=axis_name)
    if config.loss == "scl":
        block_size = config.scl_block or None
        return losses.scl(outputs.projections, labels, block_size=block_size, queue=queued, **whole)
    if config.loss == "prototype_softmax":
        return losses.prototype_softmax(
            outputs.projections, labels, num_classes=config.num_classes, **whole
        )
    loss = losses.ntce if config.loss == "ntce" else losses.nonl
    return loss(outputs.features, prototypes, labels, queue=queued, **whole)


def log_prior(counts):
    """Log of the classes' shares of the training images, float32 [K], of their `counts` [K].

    Raises UserError where a class has none.
    """
    counts = np.asarray(counts, np.float64)
    if not np.all(counts > 0):
        raise UserError(
            f"logit_adjustment needs training images of every class; class {np.argmin(counts)} has "
            "none"
        )
    return np.log(counts / counts.sum()).astype(np.float32)


def balanced_lengths(labels, num_classes, axis_name=None):
    """Lengths of dot regression's prototypes for a batch, float32 [K]: sqrt((M/K_batch)/n_c).

    M images of K_batch classes, n_c of class c; of a class without, 1. Every class in the batch
    then has the same weight in the loss (Yang et al. 2022, for long tails). labels: int [B];
    axis_name: mapped axis over which the batch is split, or None.
    """
    counts = jnp.sum(labels[:, None] == jnp.arange(num_classes), axis=0, dtype=jnp.float32)
    if axis_name is not None:
        counts = jax.lax.psum(counts, axis_name)
    share = jnp.sum(counts) / jnp.maximum(jnp.sum(counts > 0), 1)
    return jnp.where(counts > 0, jnp.sqrt(share / jnp.maximum(counts, 1.0)), 1.0)
