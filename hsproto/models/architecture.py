"""Which models a config can name, and whether its values fit together; builds nothing."""

from typing import Any

from hsproto.errors import UserError
from hsproto.methods import HEADS, LOSS_HEADS

RESNETS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}
VITS = {"vit_s": dict(dim=384, num_heads=6), "vit_b": dict(dim=768, num_heads=12)}
# Channels of the four layers, divided by `width`.
CONVNETS = {"convnet": (1, 1, 1, 1), "convnet_wide": (1, 1, 1, 4)}
EFFICIENTNETS = {"efficientnet_lite0": 1280}  # features
BACKBONES = (*RESNETS, *VITS, *EFFICIENTNETS, *CONVNETS, "features")
STEMS = ("cifar", "imagenet")
EMBEDDINGS = ("pooled", "signed", "signed_bn")
PROJECTIONS = ("none", "linear", "mlp")
DTYPES = ("float32", "bfloat16")


def feature_dim(config: Any) -> int:
    """Return D, the dimension of the features of `models.model.build(config, ...)`."""
    if config.embedding == "signed" and config.embedding_dim:
        return config.embedding_dim
    if config.backbone == "features":
        return int(config.hidden_layers[-1]) if config.hidden_layers else config.channels
    if config.backbone in VITS:
        return VITS[config.backbone]["dim"]
    if config.backbone in EFFICIENTNETS:
        return EFFICIENTNETS[config.backbone]
    if config.backbone in CONVNETS:
        return config.width * CONVNETS[config.backbone][-1]
    return config.width * (8 if RESNETS[config.backbone][0] == "basic" else 32)


def output_dim(config: Any) -> int:
    """Return the dimension of what the classifier sees: of SCL's head if there is one, else D."""
    return config.projection_dim if config.projection != "none" else feature_dim(config)


def validate(config: Any, num_classes: int | None = None) -> None:
    """Raise UserError unless `config` describes a model (of `num_classes` classes, if given)."""
    _one_of("backbone", config.backbone, BACKBONES)
    _one_of("stem", config.stem, STEMS)
    _one_of("embedding", config.embedding, EMBEDDINGS)
    _one_of("projection", config.projection, PROJECTIONS)
    _one_of("dtype", config.dtype, DTYPES)
    _one_of("loss", config.loss, LOSS_HEADS)
    _one_of("head", config.head, ("", *HEADS))

    allowed = LOSS_HEADS[config.loss]
    if config.head and config.head not in allowed:
        raise UserError(
            f"head='{config.head}' does not go with loss='{config.loss}': "
            f"use {_words(allowed)}, or '' for {allowed[0]}"
        )
    if config.projection != "none" and "none" not in allowed:
        raise UserError(
            f"projection='{config.projection}' does not go with loss='{config.loss}': use 'none' "
            "(a projection head is for scl and prototype_softmax)"
        )
    if config.embedding_dim and config.embedding != "signed":
        raise UserError(
            f"embedding_dim={config.embedding_dim} does not go with embedding="
            f"'{config.embedding}': use 0, or embedding='signed', which can change the dimensions"
        )
    if config.remat and config.backbone not in (*RESNETS, *VITS):
        raise UserError(
            f"remat=True does not go with backbone='{config.backbone}': use False, or a ResNet "
            "or ViT, whose blocks can be computed again"
        )
    if config.backbone in VITS and config.image_size % config.patch_size:
        raise UserError(
            f"patch_size={config.patch_size} does not divide image_size={config.image_size}: "
            "use a divisor of the image size"
        )
    if num_classes is None:
        return
    if num_classes < 2:
        raise UserError(f"the data hold {num_classes} class(es): at least 2 are needed")
    if output_dim(config) == 1 and num_classes > 2 and config.loss != "cross_entropy":
        raise UserError(
            f"features of one dimension have two directions, too few for {num_classes} classes: "
            "use a larger embedding_dim, projection_dim or width"
        )
    if (config.head or allowed[0]) == "etf" and feature_dim(config) < num_classes - 1:
        raise UserError(
            f"head='etf' for num_classes={num_classes} needs features of at least "
            f"{num_classes - 1} dimensions; got {feature_dim(config)}: use a larger width, or "
            "embedding='signed' with a larger embedding_dim"
        )


def _one_of(key, value, allowed):
    if value not in allowed:
        raise UserError(f"{key}='{value}' is unknown: use {_words(allowed)}")


def _words(names):
    return " | ".join(f"'{name}'" for name in names)
