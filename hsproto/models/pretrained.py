"""Backbones filled with weights of torchvision, timm and efficientnet-lite-pytorch."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from hsproto.errors import UserError
from hsproto.models import weights_files
from hsproto.models.architecture import EFFICIENTNETS, RESNETS, VITS
from hsproto.models.weights_files import Preprocessing

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5,) * 3, (0.5,) * 3)

_LEAVES = {
    "kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean",
    "var": "running_var",
}  # fmt: skip
# What a file may hold besides its backbone: a classifier, and counts that nothing uses.
_CLASSIFIERS = ("fc.", "_fc.", "head.", "heads.", "classifier.")
_UNUSED = "num_batches_tracked"


class Weights(NamedTuple):
    """The tensors of a file by their names there, and what `init_from` calls the file."""

    tensors: dict[str, np.ndarray]
    init_from: str


def load(init_from: str) -> Weights | None:
    """Read the weights that `init_from` names; None where it is empty.

    Raises:
        UserError: The file is missing, damaged, or holds more than weights.
    """
    if not init_from:
        return None
    return Weights(weights_files.read(weights_files.locate(init_from)), init_from)


def preprocessing(weights: Weights) -> Preprocessing:
    """Return how images are prepared for weights.

    As the package or the config.json beside the file says; else by the library whose names the
    tensors have: 0.5, 0.5 and bicubic for timm's ViTs, ImageNet's mean and standard deviation and
    bilinear, as torchvision's, for others.
    """
    known = weights_files.preprocessing(weights.init_from)
    is_timm_vit = "patch_embed.proj.weight" in weights.tensors
    if known:
        return known
    if is_timm_vit:
        return Preprocessing(*HALVES, 0, "bicubic")
    return Preprocessing(*IMAGENET, 0, "bilinear")


def fill(config: Any, weights: Weights, variables: dict) -> dict[str, Any]:
    """Return `params` and `batch_stats` of the backbone, NumPy arrays, from weights.

    Position embeddings of another grid are interpolated (bicubic), as timm does.

    Args:
        config: Names the backbone.
        weights: Of the file.
        variables: Those of the model, or their shapes.

    Raises:
        UserError: The file lacks a tensor of the backbone, has one of another shape, or has others
            than the backbone's and a classifier's.
    """
    where = f"config key init_from={weights.init_from}: its weights"
    source_of = _names(config, weights.tensors)
    used = set()

    def take(path, leaf):
        keys = tuple(key.key for key in path)
        name, convert = source_of(keys)
        if name not in weights.tensors:
            raise UserError(
                f"{where} are not those of backbone={config.backbone!r}: {name!r} is missing"
            )
        used.add(name)
        tensor = np.asarray(weights.tensors[name])
        try:
            value = convert(tensor, leaf.shape)
        except (ValueError, IndexError):
            value = None
        if value is None or value.shape != leaf.shape:
            raise UserError(
                f"{where} do not fit backbone={config.backbone!r}: {name!r} has the shape "
                f"{tensor.shape}, for {'/'.join(keys)} of {leaf.shape}"
            )
        return np.ascontiguousarray(value, np.float32)

    kinds = [kind for kind in ("params", "batch_stats") if variables.get(kind)]
    filled = {
        kind: jax.tree_util.tree_map_with_path(take, variables[kind]["backbone"]) for kind in kinds
    }
    left = [
        name
        for name in weights.tensors
        if name not in used and not name.startswith(_CLASSIFIERS) and not name.endswith(_UNUSED)
    ]
    if left:
        raise UserError(
            f"{where} hold {len(left)} tensors that backbone={config.backbone!r} has no place for, "
            f"e.g. {left[0]!r}: use the backbone they were made for"
        )
    return filled


def _names(config: Any, tensors: dict) -> Callable[[tuple[str, ...]], tuple[str, Callable]]:
    """Return f(path in our backbone) -> (name in the file, conversion of the tensor)."""
    if config.backbone in RESNETS:
        return _by_module(_resnet_module)
    if config.backbone in EFFICIENTNETS:
        return _by_module(_efficientnet_module)
    if config.backbone in VITS:
        timm = "patch_embed.proj.weight" in tensors
        return _vit(_TIMM if timm else _TORCHVISION, old=_OLD_MLP in tensors)
    raise UserError(f"config key init_from: no weights are known for backbone={config.backbone!r}")


def _by_module(rename):
    def source_of(path):
        *modules, leaf = path
        return f"{rename('.'.join(modules))}.{_LEAVES[leaf]}", _convert

    return source_of


def _resnet_module(module):
    module = re.sub(r"^(layer\d)_", r"\1.", module)
    return module.replace("downsample_conv", "downsample.0").replace(
        "downsample_bn", "downsample.1"
    )


def _efficientnet_module(module):
    return re.sub(r"^_blocks_(\d+)_", r"_blocks.\1._", f"_{module}")


def _convert(tensor, shape):
    """Return a tensor of torch in our order: kernels are [height, width, in, out] or [in, out]."""
    if len(shape) == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor.T if len(shape) == 2 else tensor


def _heads_last(tensor, shape):
    """A linear layer's weight [D, D] or bias [D] as [D, heads, D/heads] or [heads, D/heads]."""
    return tensor.T.reshape(shape)


def _third(i):
    def convert(tensor, shape):
        size = len(tensor) // 3
        return _heads_last(tensor[i * size : (i + 1) * size], shape)

    return convert


def interpolate_positions(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return position embeddings [1, 1 + n·n, D] for a grid of another side, as `shape` has."""
    if tensor.shape[1] == shape[1]:
        return tensor
    old, new = (round((count - 1) ** 0.5) for count in (tensor.shape[1], shape[1]))
    grid = tensor[0, 1:].reshape(old, old, -1)
    resized = jax.image.resize(grid, (new, new, grid.shape[-1]), "cubic", antialias=True)
    return np.concatenate([tensor[:, :1], np.asarray(resized).reshape(1, new * new, -1)], axis=1)


_OLD_MLP = "encoder.layers.encoder_layer_0.mlp.linear_1.weight"  # of torchvision below 0.12
_TORCHVISION = {
    "conv_proj": "conv_proj", "class_token": "class_token",
    "pos_embedding": "encoder.pos_embedding", "ln": "encoder.ln",
    "block": "encoder.layers.encoder_layer_{}", "ln_1": "ln_1", "ln_2": "ln_2",
    "mlp_0": "mlp.0", "mlp_3": "mlp.3", "in": "self_attention.in_proj_",
    "out": "self_attention.out_proj",
}  # fmt: skip
_TIMM = {
    "conv_proj": "patch_embed.proj", "class_token": "cls_token", "pos_embedding": "pos_embed",
    "ln": "norm", "block": "blocks.{}", "ln_1": "norm1", "ln_2": "norm2", "mlp_0": "mlp.fc1",
    "mlp_3": "mlp.fc2", "in": "attn.qkv.", "out": "attn.proj",
}  # fmt: skip


def _vit(names, old):
    if old:
        names = {**names, "mlp_0": "mlp.linear_1", "mlp_3": "mlp.linear_2"}

    def source_of(path):
        first, leaf = path[0], path[-1]
        if first == "pos_embedding":
            return names[first], interpolate_positions
        if first == "class_token":
            return names[first], lambda tensor, shape: tensor
        if len(path) == 2:
            return f"{names[first]}.{_LEAVES[leaf]}", _convert
        block = names["block"].format(first.removeprefix("encoder_layer_"))
        if path[1] != "self_attention":
            return f"{block}.{names[path[1]]}.{_LEAVES[leaf]}", _convert
        if path[2] == "out":
            return f"{block}.{names['out']}.{_LEAVES[leaf]}", _heads_last
        place = ("query", "key", "value").index(path[2])
        return f"{block}.{names['in']}{_LEAVES[leaf]}", _third(place)

    return source_of
