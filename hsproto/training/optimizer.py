"""The paper's SGD, and its learning rate as a function of the step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict


def learning_rate(config: ConfigDict, steps_per_epoch: float) -> Callable[[ArrayLike], jax.Array]:
    """Return the learning rate as a traceable function of the step (0-based).

    The peak is base_lr · batch_size / lr_batch. `cosine`: peak·(m + ½(1-m)(1+cos(πt/T))) with
    m = 0.1³; `step`: multiplied by decay_rate at each of decay_epochs. The warm-up is linear from
    warmup_lr to the schedule's value at its end.
    """
    peak = config.base_lr * (config.batch_size / config.lr_batch if config.lr_batch else 1.0)
    total = config.epochs * steps_per_epoch
    warmup = config.warmup_epochs * steps_per_epoch

    def scheduled(step):
        if config.schedule == "cosine":
            floor = 0.1**3
            # cos²(x/2) is (1 + cos x)/2 without its cancellation near the end.
            return peak * (floor + (1 - floor) * jnp.cos(0.5 * jnp.pi * step / total) ** 2)
        decays = jnp.asarray(config.decay_epochs) * steps_per_epoch
        return peak * config.decay_rate ** jnp.sum(step >= decays)

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        if not warmup:
            return scheduled(step)
        rising = config.warmup_lr + (scheduled(warmup) - config.warmup_lr) * step / warmup
        return jnp.where(step < warmup, rising, scheduled(step))

    return rate


def sgd(config: ConfigDict, steps_per_epoch: float) -> optax.GradientTransformation:
    """Return PyTorch's SGD: g += decay·p; m = momentum·m + g; p -= rate·m.

    As in the paper, weight decay applies to all parameters, including BatchNorm and prototypes.
    """
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(learning_rate(config, steps_per_epoch), momentum=config.momentum),
    )
