"""Checks of a config: of each value by itself, and of those that depend on each other."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto.errors import UserError
from hsproto.methods import (
    BLOCK_LOSSES,
    LOSSES,
    METHODS,
    QUEUE_LOSSES,
    SOFT_LABEL_LOSSES,
    SOFTMAX_LOSSES,
)

_CHOICES = {
    "source": ("digits", "arrays", "folder", "tfds", "features"),
    "sampler": ("shuffle", "classes"),
    "placement": ("auto", "resident", "stream"),
    "crop_on": ("auto", "host", "device"),
    "loss": LOSSES,
    "schedule": ("cosine", "step"),
    "interpolation": ("", *config_lib.INTERPOLATIONS),
    "variant": ("", "paper", "released_code"),
    "class_groups": ("", *config_lib.CLASS_GROUPS),
}


# What keys of images are for features, which nothing is cut from or changed in.
_WITHOUT_PICTURES = {
    "image_size": 1,
    "load_size": 0,
    "crop_scale": (1.0, 1.0),
    "flip": False,
    "jitter": (0.0, 0.0, 0.0, 0.0),
    "grayscale_probability": 0.0,
    "blur_probability": 0.0,
}


class _Rule(NamedTuple):
    """A check of single values: those of `keys`, separated by spaces, must be `wanted`."""

    keys: str
    holds: Callable[[Any], bool]
    wanted: str


# Of positive numbers: the network computes in float32, in which less soon is 0, more infinite.
_SMALLEST, _LARGEST = 1e-30, 1e38


def _is_class_list(text):
    names = text.split("/")
    several = len(names) >= 2 and "" not in names and len(set(names)) == len(names)
    return several or text in ("", *config_lib.CLASS_LISTS)


def _is_range(value):
    return len(value) == 2 and _SMALLEST < value[0] <= value[1] < 2**31


def _is_jitter(value):
    return len(value) == 4 and all(0 <= v < 2**31 for v in value) and value[3] <= 0.5


_RULES = (
    _Rule(
        "class_list",
        _is_class_list,
        f"one of: nothing, {', '.join(config_lib.CLASS_LISTS)}, or names of two or more classes, "
        "e.g. 0/1/7",
    ),
    _Rule(
        "temperature base_lr decay_rate",
        lambda v: _SMALLEST < v < _LARGEST,
        "a positive number",
    ),
    _Rule(
        "warmup_lr weight_decay logit_adjustment",
        lambda v: 0 <= v < _LARGEST,
        "zero or a positive number",
    ),
    _Rule(
        "image_size width batch_size epochs log_every eval_batch_size keep_checkpoints "
        "patch_size projection_dim eval_every_epochs checkpoint_every_epochs loss_groups "
        "bn_groups microbatches model_axis",
        lambda v: _SMALLEST < v < 2**31,
        "a positive number below 2**31",
    ),
    _Rule(
        "num_examples load_size embedding_dim queue_size scl_block class_block lr_batch "
        "images_per_class warmup_epochs snapshot_points mixup",
        lambda v: 0 <= v < 2**31,
        "zero or a positive number below 2**31",
    ),
    _Rule(
        "freeze_epochs",
        lambda v: v == -1 or 0 <= v < 2**31,
        "-1, zero or a positive number below 2**31",
    ),
    _Rule("num_classes", lambda v: 0 <= v <= 10**7, "zero or at most 10 million"),
    _Rule("workers", lambda v: 0 <= v <= 1024, "zero or at most 1024"),
    _Rule(
        "jitter_probability grayscale_probability blur_probability",
        lambda v: 0 <= v <= 1,
        "a probability in 0..1",
    ),
    _Rule("seed subset_seed", lambda v: 0 <= v < 2**32, "zero or a positive number below 2**32"),
    _Rule("imbalance_factor", lambda v: 0 < v <= 1, "above 0 and at most 1"),
    _Rule(
        "validation_share momentum queue_momentum label_smoothing",
        lambda v: 0 <= v < 1,
        "at least 0 and below 1",
    ),
    _Rule(
        "hidden_layers",
        lambda v: all(1 <= x < 2**31 and x == int(x) for x in v),
        "widths, e.g. 512/512",
    ),
    _Rule("mean", lambda v: all(abs(x) < 2**31 for x in v), "finite numbers"),
    _Rule("std", lambda v: all(_SMALLEST < x < 2**31 for x in v), "positive numbers"),
    _Rule(
        "crop_scale",
        lambda v: _is_range(v) and v[1] <= 1,
        "two shares of the area, e.g. 0.2/1",
    ),
    _Rule("crop_ratio", _is_range, "two positive aspect ratios, e.g. 0.75/1.33"),
    _Rule("jitter", _is_jitter, "four strengths, e.g. 0.4/0.4/0.4/0.1 (hue at most 0.5)"),
    _Rule(
        "decay_epochs",
        lambda v: all(0 < x < 2**31 for x in v) and list(v) == sorted(set(v)),
        "increasing positive epochs, e.g. 60/75/90",
    ),
)


def validate(config: ConfigDict) -> None:
    """Raise UserError for the first value that cannot be run, naming what is allowed."""
    check_values(config)
    _check_images(config)
    _check_batch_groups(config)
    _check_loss(config)
    _check_classes(config)
    _check_queue(config)
    _check_schedule(config)


def check_values(values: Mapping[str, Any]) -> None:
    """Raise UserError for the first value of a config, or of a part of one, that none can have.

    Their types are right; how values go together is for `validate`.
    """
    for key, allowed in _CHOICES.items():
        if key in values and values[key] not in allowed:
            choices = ", ".join(str(value) or "nothing" for value in allowed)
            raise UserError(f"config key {key}={values[key]!r} must be one of: {choices}")
    for rule in _RULES:
        for key in rule.keys.split():
            if key in values and not rule.holds(values[key]):
                raise UserError(f"config key {key}={values[key]!r} must be {rule.wanted}")


def _check_images(config):
    features = config.source == "features"
    if features != (config.backbone == "features"):
        raise UserError(
            "config keys source='features' and backbone='features' go together; got "
            f"source={config.source!r}, backbone={config.backbone!r}"
        )
    if not features and config.channels not in (1, 3):
        raise UserError(f"config key channels={config.channels!r} must be one of: 1, 3")
    for key, nothing in _WITHOUT_PICTURES.items():
        if features and config[key] != nothing:
            raise UserError(
                f"config key {key}={config[key]!r} is for images; with source='features' it must "
                f"be {nothing!r}"
            )
    if config.hidden_layers and not features:
        raise UserError(
            f"config key hidden_layers={config.hidden_layers!r} is for source='features'"
        )
    for key in ("mean", "std"):
        if len(config[key]) not in (0, config.channels):
            raise UserError(f"config key {key}={config[key]!r} must have {config.channels} values")
    if config.validation_share and config.source not in ("folder", "features"):
        raise UserError(
            f"config key validation_share={config.validation_share} splits source='folder'; "
            f"source={config.source!r} has its own test set"
        )
    pictures = " or ".join(config_lib.PICTURE_SOURCES)
    if config.skip_unreadable and config.source not in config_lib.PICTURE_SOURCES:
        raise UserError(
            f"config key skip_unreadable=True goes with source={pictures}; "
            f"source={config.source!r} has no image files"
        )
    if config.crop_on == "host" and config.source not in config_lib.PICTURE_SOURCES:
        raise UserError(
            "config key crop_on='host' crops pictures as they are read from source="
            f"{pictures}; with source={config.source!r} use auto or device"
        )
    if config.crop_on == "host" and not config_lib.has_random_crop(config):
        raise UserError(
            "config key crop_on='host' needs a random crop, and crop_scale=1/1 is none: use auto "
            "or device"
        )
    if 0 < config.load_size < config.image_size:
        raise UserError(
            f"config key load_size={config.load_size} must be 0 or at least "
            f"image_size={config.image_size}, which is cropped from it"
        )


def _check_batch_groups(config):
    for key in ("loss_groups", "bn_groups", "microbatches"):
        if config.batch_size % config[key]:
            raise UserError(
                f"config key {key}={config[key]} must divide batch_size={config.batch_size}"
            )
    if config.bn_groups > 1 and config.bn_groups % config.microbatches:
        raise UserError(
            f"config key bn_groups={config.bn_groups} must be 1 or a multiple of "
            f"microbatches={config.microbatches}: each microbatch has its own statistics"
        )
    groups = max(config.bn_groups, config.microbatches)
    if config.embedding == "signed_bn" and config_lib.rows_per_step(config) == groups:
        raise UserError(
            f"config key embedding='signed_bn' normalizes over at least 2 rows; batch_size="
            f"{config.batch_size}, bn_groups={config.bn_groups}, microbatches="
            f"{config.microbatches} leave 1, of which nothing is left"
        )


def _check_loss(config):
    if config.balanced_lengths and config.loss != "dot_regression":
        raise UserError(
            "config key balanced_lengths=True needs loss='dot_regression'; "
            f"got loss={config.loss!r}"
        )
    images = config.batch_size // config.loss_groups
    if METHODS[config.loss].instances and images < 2 and not config.queue_size:
        raise UserError(
            f"config key loss={config.loss!r} takes its negatives from the batch, and "
            f"batch_size={config.batch_size}, loss_groups={config.loss_groups} leave each image "
            "without any: use at least 2 images per group"
        )
    _check_soft_labels(config)
    if not config.logit_adjustment:
        return
    key = f"config key logit_adjustment={config.logit_adjustment}"
    if config.loss not in SOFTMAX_LOSSES:
        raise UserError(f"{key} goes with {', '.join(SOFTMAX_LOSSES)}; got loss={config.loss!r}")
    if config.sampler != "shuffle" or config.batch_binding:
        raise UserError(
            f"{key} needs batches whose classes are as frequent as in the data set: use "
            "sampler=shuffle and batch_binding=false"
        )


def _check_classes(config):
    if config.images_per_class:
        key = f"config key images_per_class={config.images_per_class}"
        if config.sampler != "classes" or config.batch_binding:
            raise UserError(
                f"{key} needs sampler='classes' and batch_binding=false; got "
                f"sampler={config.sampler!r}, batch_binding={config.batch_binding}"
            )
        if config.batch_size % config.images_per_class:
            raise UserError(f"{key} must divide batch_size={config.batch_size}")
    if config.class_block and config.loss not in BLOCK_LOSSES:
        raise UserError(
            f"config key class_block={config.class_block} goes with {', '.join(BLOCK_LOSSES)}; got "
            f"loss={config.loss!r}"
        )
    if config.model_axis == 1:
        return
    key = f"config key model_axis={config.model_axis}"
    if config.loss not in BLOCK_LOSSES:
        raise UserError(
            f"{key} splits the prototypes of {', '.join(BLOCK_LOSSES)}; got loss={config.loss!r}"
        )
    if config.num_classes % config.model_axis:
        raise UserError(
            f"{key} must divide num_classes={config.num_classes}: each device has as many classes"
        )
    alone = {"loss_groups": 1, "freeze_epochs": 0.0, "label_smoothing": 0.0, "mixup": 0.0}
    for other, value in alone.items():
        if config[other] != value:
            raise UserError(f"{key} needs {other}={value:g}; got {other}={config[other]:g}")


def _check_soft_labels(config):
    for key in ("label_smoothing", "mixup"):
        if not config[key]:
            continue
        if config.loss not in SOFT_LABEL_LOSSES or config.queue_size:
            raise UserError(
                f"config key {key}={config[key]} goes with {', '.join(SOFT_LABEL_LOSSES)} and "
                f"without a queue; got loss={config.loss!r}, queue_size={config.queue_size}"
            )
    if config.mixup and (config.loss_groups > 1 or config.microbatches > 1):
        raise UserError(
            f"config key mixup={config.mixup} mixes images of the whole batch: use loss_groups=1 "
            "and microbatches=1"
        )
    if config.freeze_epochs and config.queue_size:
        raise UserError(
            f"config key freeze_epochs={config.freeze_epochs} goes without a queue; got "
            f"queue_size={config.queue_size}"
        )


def _check_queue(config):
    if not config.queue_size:
        if config.queue_momentum:
            raise UserError(f"queue_momentum={config.queue_momentum} needs a queue_size")
        return
    key = f"config key queue_size={config.queue_size}"
    if config.loss not in QUEUE_LOSSES:
        raise UserError(f"{key} goes with {', '.join(QUEUE_LOSSES)}; got loss={config.loss!r}")
    rows = config_lib.rows_per_step(config)
    if config.queue_size % rows or config.loss_groups > 1:
        raise UserError(
            f"{key} must be a multiple of the {rows} embeddings of a step, and needs loss_groups=1"
        )


def _check_schedule(config):
    if config.schedule == "step" and not config.decay_epochs:
        raise UserError("schedule=step needs decay_epochs, e.g. decay_epochs=60/75/90")
    if config.warmup_epochs >= config.epochs:
        raise UserError(
            f"warmup_epochs={config.warmup_epochs} must be below epochs={config.epochs}: for a "
            "short run use warmup_epochs=0"
        )
    if config_lib.total_steps(config) >= 2**31:
        raise UserError(
            f"epochs={config.epochs:g} are {config_lib.total_steps(config)} steps of batch_size="
            f"{config.batch_size}: at most 2**31 are counted"
        )
