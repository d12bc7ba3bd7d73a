"""Vision transformers."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from hsproto.models.layers import (
    attention_init,
    glorot_init,
    linear_init,
    patches_init,
    positions_init,
    recomputed,
)


class TransformerBlock(nn.Module):
    """Pre-LayerNorm: x + attention(norm(x)), then x + mlp(norm(x)), with the exact GELU."""

    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        dim = x.shape[-1]
        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="ln_1")(x)
        x = x + nn.MultiHeadDotProductAttention(
            self.num_heads,
            dtype=self.dtype,
            force_fp32_for_softmax=True,
            kernel_init=attention_init,
            out_kernel_init=linear_init,
            name="self_attention",
        )(y)
        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="ln_2")(x)
        for name, width in (("mlp_0", 4 * dim), ("mlp_3", dim)):
            y = nn.Dense(
                width,
                kernel_init=glorot_init,
                bias_init=nn.initializers.normal(1e-6),
                dtype=self.dtype,
                name=name,
            )(y)
            if width != dim:
                y = nn.gelu(y, approximate=False)
        return x + y


class VisionTransformer(nn.Module):
    """ViT with a class token and learned positions; returns the class token after the last norm.

    The class token replaces the average pooling of ResNets. It is the output of a LayerNorm, not of
    a ReLU, so its entries have both signs whichever embedding follows.
    """

    patch_size: int
    dim: int
    num_heads: int
    dtype: Any
    depth: int = 12
    remat: bool = False

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(
            self.dim,
            (self.patch_size, self.patch_size),
            (self.patch_size, self.patch_size),
            padding="VALID",
            kernel_init=patches_init,
            dtype=self.dtype,
            name="conv_proj",
        )(images)
        x = x.reshape(x.shape[0], -1, self.dim)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.dim))
        token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.dim))
        x = jnp.concatenate([token, x], axis=1)
        positions = self.param("pos_embedding", positions_init, (1, x.shape[1], self.dim))
        x = x + positions.astype(x.dtype)
        for i in range(self.depth):
            block = TransformerBlock(self.num_heads, self.dtype, name=f"encoder_layer_{i}")
            x = recomputed(block, x) if self.remat and train else block(x)
        # LayerNorm acts on each token, so only the returned one is normalized.
        return nn.LayerNorm(epsilon=1e-6, dtype=jnp.float32, name="ln")(x[:, 0])
