"""Losses whose anchors are instances and whose negatives are prototypes: softmax over classes."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from hsproto.core import numerics
from hsproto.core.batch import Batch
from hsproto.core.contrast import ClassBlock, RowSums, logsumexp, over_classes, zeros_of_rows
from hsproto.core.labels import expected, own_class, pick
from hsproto.core.numerics import matmul
from hsproto.core.per_anchor import PerAnchor, per_anchor


def _with_bias(logits: jax.Array, bias: jax.Array | None) -> jax.Array:
    return logits if bias is None else logits + bias[None, :]


def softmax(
    features: jax.Array,
    prototypes: jax.Array,
    batch: Batch,
    temperature: jax.Array | None,
    bias: ArrayLike | None,
    *,
    decoupled: bool = False,
) -> PerAnchor:
    """Cross entropy of the logits, where `decoupled` without the own class in the denominator.

    `temperature` is None for prototypes as they are, else that of their directions.
    """
    if bias is not None:
        bias = numerics.as_array("bias", bias)
        if bias.shape != (batch.num_classes,):
            raise ValueError(f"bias must have shape ({batch.num_classes},); got shape {bias.shape}")
        bias = jnp.asarray(bias, batch.dtype)

    def logits_of(prototypes: jax.Array, bias: jax.Array | None) -> jax.Array:
        # In blocks, directions of a block at a time: those of all would take as much again as the
        # prototypes, and so would their gradient.
        if temperature is None:
            return _with_bias(matmul(features, prototypes.T), bias)
        return _with_bias(matmul(features, numerics.unit_or_zero(prototypes).T) / temperature, bias)

    if not batch.in_blocks:
        logits = logits_of(prototypes, bias)
        own = own_class(batch.labels, batch.num_classes)
        lse, any_included = logsumexp(logits, ~own if decoupled else None, axis=1)
        valid = batch.mask & any_included if decoupled else batch.mask
        return per_anchor(lse - pick(logits, own), valid)

    def add(
        carry: tuple[RowSums, jax.Array], block: ClassBlock
    ) -> tuple[tuple[RowSums, jax.Array], None]:
        sums, own_logit = carry
        prototypes, bias = block.columns
        logits = logits_of(prototypes, bias)
        share = block.labels
        include = block.counted & (share == 0) if decoupled else block.counted
        return (sums.add(logits, include), own_logit + expected(logits, share)), None

    zeros = zeros_of_rows(features.shape[0], features, prototypes, bias, temperature, batch.labels)
    start = RowSums.init(zeros), zeros
    (sums, own_logit), _ = over_classes(add, start, (prototypes, bias), batch)
    lse, any_included = sums.logsumexp(batch.model_axis)
    if batch.model_axis is not None:
        own_logit = lax.psum(own_logit, batch.model_axis)
    if batch.soft:
        lse = lse * jnp.sum(batch.labels, axis=1)
    valid = batch.mask & any_included if decoupled else batch.mask
    return per_anchor(lse - own_logit, valid)


def soft_decoupled_softmax(
    directions: jax.Array, prototypes: jax.Array, batch: Batch, temperature: jax.Array
) -> PerAnchor:
    """Σ_c Y_ic (-S_ic/t + log Σ_{k≠c} exp(S_ik/t)), of which there is no value for K = 1.

    With L the log-sum-exp over all classes, that without c is L + log(1 - exp(S_ic/t - L)), which
    has no digits left only where c is the nearest class of the row: that one is summed by itself.
    """

    def logits_of(block: ClassBlock) -> jax.Array:
        return matmul(directions, block.columns[0].T) / temperature

    def nearest(
        carry: tuple[jax.Array, jax.Array], block: ClassBlock
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        peak, top = carry
        logits = jnp.where(block.counted, lax.stop_gradient(logits_of(block)), -jnp.inf)
        block_top = jnp.argmax(logits, axis=1)
        block_peak = jnp.max(logits, axis=1)
        closer = block_peak > peak
        return (
            jnp.where(closer, block_peak, peak),
            jnp.where(closer, block.ids[block_top], top),
        ), None

    zeros = zeros_of_rows(directions.shape[0], directions, prototypes, temperature, batch.labels)
    start = zeros - jnp.inf, zeros.astype(jnp.int32)
    (_, top), _ = over_classes(nearest, lax.stop_gradient(start), (prototypes,), batch)

    def split(
        carry: tuple[RowSums, jax.Array], block: ClassBlock
    ) -> tuple[tuple[RowSums, jax.Array], None]:
        rest, top_logit = carry
        logits = logits_of(block)
        is_top = top[:, None] == block.ids[None, :]
        return (rest.add(logits, block.counted & ~is_top), top_logit + pick(logits, is_top)), None

    nothing = RowSums.init(zeros), zeros
    (rest, top_logit), _ = over_classes(split, nothing, (prototypes,), batch)
    without_top, any_included = rest.logsumexp()
    whole = jnp.logaddexp(without_top, top_logit)

    def add(total: jax.Array, block: ClassBlock) -> tuple[jax.Array, None]:
        logits, is_top = logits_of(block), top[:, None] == block.ids[None, :]
        others = is_top | ~block.counted
        share = jnp.exp(jnp.where(others, -jnp.inf, logits - whole[:, None]))
        without = jnp.where(is_top, without_top[:, None], whole[:, None] + jnp.log1p(-share))
        return total + expected(without - logits, block.labels), None

    total, _ = over_classes(add, zeros, (prototypes,), batch)
    return per_anchor(total, batch.mask & any_included)
