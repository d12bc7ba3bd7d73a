"""EfficientNet-Lite0: a network for photos that a CPU runs in some 20 ms per image.

Source: Tan and Le 2019; the "lite" variant has no squeeze-and-excitation, and ReLU6.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from hsproto.models.layers import average_pool, batch_norm, conv_init, depthwise_init

# Of each stage: blocks, kernel size, stride, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve each channel of x [B, H, W, C] with its own kernel [k, k, 1, C]; padding "SAME".

    On CPUs as a sum of shifted products, since XLA:CPU runs grouped convolutions many times slower;
    elsewhere as a grouped convolution. Both give the same values up to rounding.
    """

    def grouped(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1],
        )  # fmt: skip

    def shifted(x, kernel):
        return shifted_products(x, kernel, stride)

    return lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


def shifted_products(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Return `depthwise` as the sum over the places of the kernel of a shifted x times a weight."""
    size = kernel.shape[0]
    pads = lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = (-(-side // stride) for side in x.shape[1:3])
    total = jnp.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
    for i in range(size):
        for j in range(size):
            rows = slice(i, i + (height - 1) * stride + 1, stride)
            columns = slice(j, j + (width - 1) * stride + 1, stride)
            total = total + padded[:, rows, columns] * kernel[i, j, 0]
    return total


class DepthwiseConv(nn.Module):
    """`depthwise` with a learned kernel."""

    size: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", depthwise_init, (self.size, self.size, 1, x.shape[-1]))
        return depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 without its classifier; returns the spatial mean of 1280 channels in 0..6.

    TensorFlow's padding "SAME" and BatchNorm's epsilon 1e-3; the layers' names are those of the
    package efficientnet-lite-pytorch, without their underscores.
    """

    dtype: Any
    bn_groups: int = 1

    @nn.compact
    def __call__(self, images, train):
        x = self._act(self._conv(images, 32, "conv_stem", 3, 2), train, "bn0")
        number = 0
        for depth, size, stride, expansion, channels in STAGES:
            for i in range(depth):
                step = stride if i == 0 else 1
                x = self._block(x, train, f"blocks_{number}", size, step, expansion, channels)
                number += 1
        return average_pool(self._act(self._conv(x, 1280, "conv_head"), train, "bn1"))

    def _block(self, x, train, name, size, stride, expansion, channels):
        y = x
        if expansion > 1:
            y = self._conv(y, expansion * x.shape[-1], f"{name}_expand_conv")
            y = self._act(y, train, f"{name}_bn0")
        y = DepthwiseConv(size, stride, self.dtype, name=f"{name}_depthwise_conv")(y)
        y = self._act(y, train, f"{name}_bn1")
        y = self._norm(self._conv(y, channels, f"{name}_project_conv"), train, f"{name}_bn2")
        return x + y if x.shape == y.shape else y

    def _conv(self, x, channels, name, size=1, stride=1):
        return nn.Conv(
            channels, (size, size), (stride, stride), padding="SAME", use_bias=False,
            kernel_init=conv_init, dtype=self.dtype, name=name,
        )(x)  # fmt: skip

    def _norm(self, x, train, name):
        return batch_norm(train, self.dtype, name, self.bn_groups, epsilon=1e-3)(x)

    def _act(self, x, train, name):
        return nn.relu6(self._norm(x, train, name))
