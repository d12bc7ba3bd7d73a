"""Layers with their initializers: convolution, linear, BatchNorm, pooling."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def initializer(distribution: Callable, scale: Callable[..., float]) -> Callable:
    """Return an initializer: samples of a standard distribution times `scale(*shape)`."""

    def init(key, shape, dtype=jnp.float32):
        # Sampled flat, with the same numbers: XLA:CPU can take 20 s to compile the random bits of
        # one four-dimensional array, and takes 0.3 s for a flat one.
        return (scale(*shape) * distribution(key, (math.prod(shape),), dtype)).reshape(shape)

    return init


_normal, _uniform = jax.random.normal, functools.partial(jax.random.uniform, minval=-1.0)
# torch: kaiming_normal_(mode="fan_out", nonlinearity="relu"), which does not truncate.
conv_init = initializer(_normal, lambda height, width, _, out: (2 / (height * width * out)) ** 0.5)
# A depthwise kernel [k, k, 1, C] has k·k outgoing weights per channel.
depthwise_init = initializer(_normal, lambda height, width, *_: (2 / (height * width)) ** 0.5)
# torch: nn.Linear's default, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), for weights and bias.
linear_init = initializer(_uniform, lambda fan_in, _: fan_in**-0.5)
prototypes_init = initializer(_uniform, lambda _, fan_in: fan_in**-0.5)
# torchvision's ViT. Glorot's rule sees queries, keys and values as one matrix of 3 D outputs.
glorot_init = initializer(_uniform, lambda fan_in, fan_out: (6 / (fan_in + fan_out)) ** 0.5)
attention_init = initializer(_uniform, lambda fan_in, _: (6 / (fan_in + 3 * fan_in)) ** 0.5)
patches_init = initializer(
    _normal, lambda height, width, fan_in, _: (height * width * fan_in) ** -0.5
)
positions_init = initializer(_normal, lambda *_: 0.02)


def bias_init(fan_in: int) -> Callable:
    return initializer(_uniform, lambda _: fan_in**-0.5)


def linear(inputs: jax.Array, dim: int, name: str) -> jax.Array:
    """Apply torch's nn.Linear in float32; the default would be TF32 or bfloat16 on accelerators."""
    return nn.Dense(
        dim,
        kernel_init=linear_init,
        bias_init=bias_init(inputs.shape[-1]),
        dtype=jnp.float32,
        precision=jax.lax.Precision.HIGHEST,
        name=name,
    )(inputs)


def conv(channels: int, size: int, stride: int, dtype: Any, name: str) -> nn.Module:
    # "SAME" pads a stride-2 convolution unevenly, torch's integer padding evenly.
    return nn.Conv(
        channels,
        (size, size),
        (stride, stride),
        padding=((size // 2, size // 2),) * 2,
        use_bias=False,
        kernel_init=conv_init,
        dtype=dtype,
        name=name,
    )


def batch_norm(
    train: bool, dtype: Any, name: str, groups: int = 1, epsilon: float = 1e-5
) -> nn.Module:
    """Return a BatchNorm; all those of the package are made here.

    flax's momentum 0.9 is torch's 0.1. flax averages the biased variance of the batch, torch the
    unbiased one: the running variances differ by (n-1)/n, n = batch x height x width. Under jit, on
    a batch sharded over a mesh, the statistics are those of the global batch, or of `groups` groups
    of consecutive rows.
    """
    kwargs = dict(
        use_running_average=not train, momentum=0.9, epsilon=epsilon, dtype=dtype, name=name
    )
    return nn.BatchNorm(**kwargs) if groups == 1 else GroupedBatchNorm(groups=groups, **kwargs)


class GroupedBatchNorm(nn.Module):
    """flax's BatchNorm on each of `groups` groups of consecutive rows, with the same variables.

    It simulates devices that do not synchronize BatchNorm, except that the running statistics are
    averaged over the groups, whereas each device would keep its own.
    """

    groups: int
    use_running_average: bool
    momentum: float
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running = (
            self.variable("batch_stats", "mean", jnp.zeros, shape),
            self.variable("batch_stats", "var", jnp.ones, shape),
        )

        def normalize(x, mean, variance):
            y = (x - mean) * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias
            return y.astype(self.dtype)

        if self.use_running_average:
            return normalize(x, *(variable.value for variable in running))
        rows = x.reshape(self.groups, -1, *x.shape[1:]).astype(jnp.float32)
        axes = tuple(range(1, rows.ndim - 1))
        mean = jnp.mean(rows, axes, keepdims=True)
        variance = jnp.mean(jnp.square(rows), axes, keepdims=True) - jnp.square(mean)
        variance = jnp.maximum(variance, 0.0)
        for variable, new in zip(running, (mean, variance), strict=True):
            average = jnp.mean(new, axis=tuple(range(new.ndim - 1)))
            variable.value = self.momentum * variable.value + (1 - self.momentum) * average
        return normalize(rows, mean, variance).reshape(x.shape)


def recomputed(block: nn.Module, x: jax.Array, *arguments: Any) -> jax.Array:
    """Return block(x, *arguments), of whose insides nothing is kept for the gradient.

    They are computed a second time when the gradient needs them, except for sums such as
    BatchNorm's statistics, which are small and which devices exchange.
    """

    def apply(block, x):
        return block(x, *arguments)

    def forward(block, x):
        return nn.vjp(nn.remat(apply, policy=_is_sum), block, x)

    def backward(pull_back, slope):
        # Only with all gradients of the block does the one before begin: XLA would put those of
        # parameters off, and what they need of all blocks would lie in memory at once.
        return jax.lax.optimization_barrier(pull_back(slope))

    return nn.custom_vjp(apply, forward, backward)(block, x)


def _is_sum(primitive, *_, **__):
    return primitive is jax.lax.reduce_sum_p


def average_pool(x: jax.Array) -> jax.Array:
    """Return the spatial mean, in float32."""
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
