"""Images to features: backbone, embedding, SCL's projection head, and the classifier's prototypes.

    images [B,H,W,C] -> backbone, pooled [B,D'] -> embedding [B,D] -> projection head [B,d]
                                                 prototypes [K,D]

The classifier head holds parameters and computes nothing: the losses take features and prototypes.

Parameters are always float32. The backbone computes in `dtype`; from the pooling's output on
everything is float32, because cosines are divided by temperatures of 0.1 and less.

Layout and initialisation are those of torchvision, and the names of the layers too, up to
"layer1.0.downsample.0" being `layer1_0/downsample_conv`.
"""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from hsproto.architecture import CONVNETS, LOSS_HEADS, RESNETS, VITS, validate
from hsproto.spectra import simplex_etf

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Outputs(NamedTuple):
    """What a model says of a batch; `projections` is `features` where there is no projection."""

    features: jax.Array
    projections: jax.Array


def drawn(distribution, scale):
    """An initialiser: numbers of a standard distribution times `scale(*shape)`."""

    def init(key, shape, dtype=jnp.float32):
        # Drawn flat: the numbers are the same, and XLA:CPU, which can take 20 s to compile the
        # random bits of one four-dimensional array, takes 0.3 s.
        return (scale(*shape) * distribution(key, (math.prod(shape),), dtype)).reshape(shape)

    return init


_normal, _uniform = jax.random.normal, functools.partial(jax.random.uniform, minval=-1.0)
# torch: kaiming_normal_(mode="fan_out", nonlinearity="relu"), which does not truncate.
conv_init = drawn(_normal, lambda height, width, _, out: (2 / (height * width * out)) ** 0.5)
# torch: nn.Linear's default, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), for weights and bias.
linear_init = drawn(_uniform, lambda fan_in, _: fan_in**-0.5)
prototypes_init = drawn(_uniform, lambda _, fan_in: fan_in**-0.5)
# torchvision's ViT. Glorot's rule sees queries, keys and values as one matrix of 3 D outputs.
glorot_init = drawn(_uniform, lambda fan_in, fan_out: (6 / (fan_in + fan_out)) ** 0.5)
attention_init = drawn(_uniform, lambda fan_in, _: (6 / (fan_in + 3 * fan_in)) ** 0.5)
patches_init = drawn(_normal, lambda height, width, fan_in, _: (height * width * fan_in) ** -0.5)
positions_init = drawn(_normal, lambda *_: 0.02)


def bias_init(fan_in):
    return drawn(_uniform, lambda _: fan_in**-0.5)


def linear(inputs, dim, name):
    """nn.Linear in float32; the default precision would be TF32 or bfloat16 on accelerators."""
    return nn.Dense(
        dim,
        kernel_init=linear_init,
        bias_init=bias_init(inputs.shape[-1]),
        dtype=jnp.float32,
        precision=jax.lax.Precision.HIGHEST,
        name=name,
    )(inputs)


def conv(channels, size, stride, dtype, name):
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


def batch_norm(train, dtype, name, groups=1):
    """Every BatchNorm of the package is made here.

    flax's momentum 0.9 is torch's 0.1. flax averages the biased variance of the batch where torch
    averages the unbiased one: the running variances differ by (n-1)/n, n = batch x height x width.
    Under jit, on a batch sharded over a mesh, the statistics are those of the global batch, or with
    `groups` those of as many groups of consecutive rows.
    """
    kwargs = dict(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)
    return nn.BatchNorm(**kwargs) if groups == 1 else GroupedBatchNorm(groups=groups, **kwargs)


class GroupedBatchNorm(nn.Module):
    """flax's BatchNorm on each of `groups` groups of consecutive rows; same variables, same names.

    That is what devices do that do not synchronise theirs. The running statistics average over the
    groups, where each of those devices would keep its own.
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

        def normalise(x, mean, variance):
            y = (x - mean) * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias
            return y.astype(self.dtype)

        if self.use_running_average:
            return normalise(x, *(kept.value for kept in running))
        rows = x.reshape(self.groups, -1, *x.shape[1:]).astype(jnp.float32)
        axes = tuple(range(1, rows.ndim - 1))
        mean = jnp.mean(rows, axes, keepdims=True)
        variance = jnp.mean(jnp.square(rows), axes, keepdims=True) - jnp.square(mean)
        variance = jnp.maximum(variance, 0.0)
        for kept, new in zip(running, (mean, variance), strict=True):
            average = jnp.mean(new, axis=tuple(range(new.ndim - 1)))
            kept.value = self.momentum * kept.value + (1 - self.momentum) * average
        return normalise(rows, mean, variance).reshape(x.shape)


def average_pool(x):
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


class ResidualBlock(nn.Module):
    """torchvision's BasicBlock, or its Bottleneck with the stride on the 3x3 ("v1.5")."""

    kind: str
    channels: int
    stride: int
    dtype: Any
    bn_groups: int = 1

    @nn.compact
    def __call__(self, x, train):
        channels, stride = self.channels, self.stride
        if self.kind == "basic":
            layers = ((channels, 3, stride), (channels, 3, 1))
        else:
            layers = ((channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1))
        y = x
        for i, (width, size, step) in enumerate(layers, start=1):
            y = conv(width, size, step, self.dtype, f"conv{i}")(y)
            y = batch_norm(train, self.dtype, f"bn{i}", self.bn_groups)(y)
            if i < len(layers):
                y = nn.relu(y)
        if x.shape != y.shape:
            x = conv(y.shape[-1], 1, stride, self.dtype, "downsample_conv")(x)
            x = batch_norm(train, self.dtype, "downsample_bn", self.bn_groups)(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet without its classifier; `width` channels in the first stage.

    Stem "imagenet": 7x7 convolution of stride 2 and 3x3 max-pooling of stride 2. Stem "cifar": 3x3
    convolution of stride 1, no max-pooling. Returns the spatial mean after the last ReLU, so that
    every entry is at least 0.
    """

    kind: str
    depths: tuple[int, ...]
    width: int
    stem: str
    dtype: Any
    bn_groups: int = 1

    @nn.compact
    def __call__(self, images, train):
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = conv(self.width, size, stride, self.dtype, "conv1")(images)
        x = nn.relu(batch_norm(train, self.dtype, "bn1", self.bn_groups)(x))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                channels = self.width * 2**stage
                name = f"layer{stage + 1}_{i}"
                block = ResidualBlock(
                    self.kind, channels, stride, self.dtype, self.bn_groups, name=name
                )
                x = block(x, train)
        return average_pool(x)


class ConvNet(nn.Module):
    """Four 3x3 convolutions of `channels` with BatchNorm and ReLU, and the spatial mean.

    The second and the fourth have stride 2: 8x8 digits train at thousands of images/s on a CPU.
    """

    channels: tuple[int, ...]
    dtype: Any
    bn_groups: int = 1

    @nn.compact
    def __call__(self, images, train):
        x = images
        layers = zip(self.channels, (1, 2, 1, 2), strict=True)
        for i, (channels, stride) in enumerate(layers, start=1):
            x = conv(channels, 3, stride, self.dtype, f"conv{i}")(x)
            x = nn.relu(batch_norm(train, self.dtype, f"bn{i}", self.bn_groups)(x))
        return average_pool(x)


class TransformerBlock(nn.Module):
    """Pre-LayerNorm: x + attention(norm(x)), then x + mlp(norm(x)); GELU is the exact one."""

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

    The class token takes the place of the ResNets' average pooling. It comes out of a LayerNorm,
    not of a ReLU, so its entries have both signs whichever embedding follows.
    """

    patch_size: int
    dim: int
    num_heads: int
    dtype: Any
    depth: int = 12

    @nn.compact
    def __call__(self, images, train):
        del train
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
            x = TransformerBlock(self.num_heads, self.dtype, name=f"encoder_layer_{i}")(x)
        # LayerNorm works token by token, so only the one that leaves is normalised.
        return nn.LayerNorm(epsilon=1e-6, dtype=jnp.float32, name="ln")(x[:, 0])


class Model(nn.Module):
    """Backbone, embedding and projection head, and the classifier's prototypes; see `build`."""

    backbone: nn.Module
    num_classes: int
    head: str
    embedding: str
    embedding_dim: int
    projection: str
    projection_dim: int
    bn_groups: int = 1

    @nn.compact
    def __call__(self, images, train):
        features = self.backbone(images, train).astype(jnp.float32)
        if self.embedding == "signed":
            dim = self.embedding_dim or features.shape[-1]
            features = linear(features, dim, "embedding")
        elif self.embedding == "signed_bn":
            features = batch_norm(train, jnp.float32, "embedding_bn", self.bn_groups)(features)

        projections, dim = features, features.shape[-1]
        if self.projection == "mlp":
            projections = nn.relu(linear(projections, dim, "projection_hidden"))
        if self.projection != "none":
            projections = linear(projections, self.projection_dim, "projection")

        self._make_head(dim)
        return Outputs(features, projections)

    def _make_head(self, dim):
        shape = (self.num_classes, dim)
        if self.head == "etf":
            # A collection of its own: the optimiser, which sees `params`, cannot move it.
            self.variable(
                "constants", "prototypes", lambda: simplex_etf(self.make_rng("params"), *shape)
            )
        elif self.head != "none":
            self.param("prototypes", prototypes_init, shape)
        if self.head == "linear":
            self.param("bias", bias_init(dim), shape[:1])


def build(config, num_classes):
    """The model that `config` describes, for `num_classes` classes.

    - `backbone`: resnet18|34|50|101|152, vit_s, vit_b, convnet, or convnet_wide, whose last layer
      has 4 `width` channels. `stem` and `width` (channels of the first stage) are for the ResNets,
      `width` also for the convnets, `patch_size` for the ViTs.
    - `embedding`: "pooled" is the backbone's output, after ReLU and average pooling (for a ViT: its
      class token). "signed" puts a linear layer after it, to `embedding_dim` dimensions (0: as many
      as the backbone has), "signed_bn" a BatchNorm. Non-negative features, as the pooled ones of
      ResNets and convnet are, have no negative cosines and cannot form a simplex.
    - `head`: "prototypes" (learnable [K,D]), "etf" (a fixed simplex equiangular tight frame; needs
      D >= K-1), "linear" (weights and bias, for cross entropy), "none"; "" is what the loss needs.
    - `projection`, of SCL and prototype softmax: "none", "linear" D->d, "mlp" D->D->d with ReLU.
    - `dtype`: what the backbone computes in.
    - `bn_groups`, `microbatches`: see `batch_norm`; a microbatch holds bn_groups / microbatches.

    Raises UserError, one line, for values it does not know or that do not go together.
    """
    validate(config, num_classes)
    dtype = DTYPES[config.dtype]
    # Of those rows that the model sees at a time.
    groups = max(1, config.bn_groups // config.microbatches)
    if config.backbone in RESNETS:
        kind, depths = RESNETS[config.backbone]
        backbone = ResNet(kind, depths, config.width, config.stem, dtype, groups)
    elif config.backbone in VITS:
        backbone = VisionTransformer(config.patch_size, **VITS[config.backbone], dtype=dtype)
    else:
        channels = tuple(config.width * factor for factor in CONVNETS[config.backbone])
        backbone = ConvNet(channels, dtype, groups)
    return Model(
        backbone=backbone,
        num_classes=num_classes,
        head=config.head or LOSS_HEADS[config.loss][0],
        embedding=config.embedding,
        embedding_dim=config.embedding_dim,
        projection=config.projection,
        projection_dim=config.projection_dim,
        bn_groups=groups,
    )


def init(model, key, image_shape):
    """Variables of a model for images of shape (height, width, channels); pure, to be jitted.

    A dict of `params`, `batch_stats` (empty for a model without BatchNorm) and, for a head that
    does not learn, `constants`.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return {"batch_stats": {}, **model.init({"params": key}, images, train=False)}


def forward(model, variables, images, train):
    """Outputs for images [B,H,W,C], and the new `batch_stats` (the old ones when not training)."""
    batch_stats = variables.get("batch_stats", {})
    if not train:
        return model.apply(variables, images, train=False), batch_stats
    outputs, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    return outputs, updates.get("batch_stats", batch_stats)


def output_dim(model, image_shape):
    """d: the dimensions of a model's `projections` of images (height, width, channels)."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    make = lambda images: model.init_with_output(  # noqa: E731
        {"params": jax.random.key(0)}, images, train=False
    )[0]
    return jax.eval_shape(make, images).projections.shape[-1]


def classifier(variables):
    """(prototypes [K,D] or None, bias [K] or None) of a model's variables."""
    learnt, fixed = variables["params"], variables.get("constants", {})
    return fixed.get("prototypes", learnt.get("prototypes")), learnt.get("bias")
