"""Images to features: backbone, embedding, SCL's projection head, and the classifier's prototypes.

    images [B,H,W,C] -> backbone, pooled [B,D'] -> embedding [B,D] -> projection head [B,d]
                                                 prototypes [K,D]

The classifier head holds parameters and computes nothing: the losses take features and prototypes.

Parameters are always float32. The backbone computes in `dtype`; from the pooling's output on
everything is float32, because cosines are divided by temperatures of 0.1 and less.

Layers, initialization and names are those of torchvision (with `layer1_0/downsample_conv` for
"layer1.0.downsample.0").
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from hsproto.core.simplex import simplex_etf
from hsproto.methods import LOSS_HEADS
from hsproto.models.architecture import CONVNETS, EFFICIENTNETS, RESNETS, VITS, validate
from hsproto.models.convnets import ConvNet, ResNet
from hsproto.models.efficientnet import EfficientNetLite
from hsproto.models.features import FeatureLayers
from hsproto.models.layers import DTYPES, batch_norm, bias_init, linear, prototypes_init
from hsproto.models.vit import VisionTransformer


class Outputs(NamedTuple):
    """A model's outputs for a batch; `projections` are `features` without a projection head."""

    features: jax.Array
    projections: jax.Array


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
            # A separate collection: the optimizer sees `params` only.
            self.variable(
                "constants", "prototypes", lambda: simplex_etf(self.make_rng("params"), *shape)
            )
        elif self.head != "none":
            self.param("prototypes", prototypes_init, shape)
        if self.head == "linear":
            self.param("bias", bias_init(dim), shape[:1])


def build(config: Any, num_classes: int) -> Model:
    """Return the model that `config` describes, for `num_classes` classes.

    - `backbone`: resnet18|34|50|101|152, vit_s, vit_b, efficientnet_lite0, convnet, or
      convnet_wide, whose last layer has 4 `width` channels. `width` (channels of the first stage)
      is for ResNets and convnets, `stem` for ResNets, `patch_size` for ViTs. "features" are what
      another network made of images, float [B, 1, 1, D], passed through `hidden_layers`.
    - `embedding`: "pooled" is the backbone's output, after ReLU and average pooling (for a ViT: its
      class token). "signed" adds a linear layer to `embedding_dim` dimensions (0: those of the
      backbone), "signed_bn" a BatchNorm. Non-negative features, such as the pooled ones of ResNets
      and convnets, have no negative cosines and cannot form a simplex.
    - `head`: "prototypes" (learnable [K,D]), "etf" (a fixed simplex equiangular tight frame; needs
      D >= K-1), "linear" (weights and bias, for cross entropy), "none"; "": the loss's default.
    - `projection`, for SCL and prototype softmax: "none", "linear" D->d, "mlp" D->D->d with ReLU.
    - `dtype`: that of the backbone's computations.
    - `remat`: blocks of ResNets and ViTs compute their insides again for the gradient in place of
      keeping them (`layers.recomputed`).
    - `bn_groups`, `microbatches`: see `batch_norm`; a microbatch has bn_groups / microbatches.

    Raises:
        UserError: If values are unknown or do not fit together.
    """
    validate(config, num_classes)
    dtype = DTYPES[config.dtype]
    # Of the rows that the model sees at a time.
    groups = max(1, config.bn_groups // config.microbatches)
    if config.backbone in RESNETS:
        kind, depths = RESNETS[config.backbone]
        backbone = ResNet(kind, depths, config.width, config.stem, dtype, groups, config.remat)
    elif config.backbone == "features":
        backbone = FeatureLayers(tuple(map(int, config.hidden_layers)))
    elif config.backbone in VITS:
        backbone = VisionTransformer(
            config.patch_size, **VITS[config.backbone], dtype=dtype, remat=config.remat
        )
    elif config.backbone in EFFICIENTNETS:
        backbone = EfficientNetLite(dtype, groups)
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


class _Given(nn.Module):
    """In the place of a backbone, for features that one has made."""

    @nn.compact
    def __call__(self, features, train):
        return features


def on_features(model: Model) -> Model:
    """Return a model that takes the backbone's features [B, D'] for images."""
    return model.clone(backbone=_Given())


def without_backbone(variables: dict) -> dict:
    """Return the variables of `on_features(model)` among those of a model."""
    return {
        collection: {name: value for name, value in values.items() if name != "backbone"}
        for collection, values in variables.items()
    }


def pooled(model: Model, variables: dict, images: jax.Array) -> jax.Array:
    """Return the backbone's features float32 [B, D'] of images [B,H,W,C], in evaluation."""
    collections = ("params", "batch_stats")
    own = {name: variables.get(name, {}).get("backbone", {}) for name in collections}
    return model.backbone.apply(own, images, train=False).astype(jnp.float32)


def init(model: Model, key: jax.Array, image_shape: tuple[int, int, int]) -> dict:
    """Return initial variables for images of shape (height, width, channels); pure, to be jitted.

    A dict of `params`, `batch_stats` (empty without BatchNorm) and, for a fixed head, `constants`.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return {"batch_stats": {}, **model.init({"params": key}, images, train=False)}


def forward(model: Model, variables: dict, images: jax.Array, train: bool) -> tuple[Outputs, dict]:
    """Return outputs for images [B,H,W,C] and the `batch_stats`, updated if training."""
    batch_stats = variables.get("batch_stats", {})
    if not train:
        return model.apply(variables, images, train=False), batch_stats
    outputs, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    return outputs, updates.get("batch_stats", batch_stats)


def output_dim(model: Model, image_shape: tuple[int, int, int]) -> int:
    """Return d, the dimension of a model's `projections` for images (height, width, channels)."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)

    def outputs(images):
        return model.init_with_output({"params": jax.random.key(0)}, images, train=False)[0]

    return jax.eval_shape(outputs, images).projections.shape[-1]
