"""The configuration of a run: its keys and defaults, checks, and what follows from them.

A recipe in `configs/` defines `get_config(arg)`: a config with the recipe's values, passed through
`with_argument(config, arg)` for the values after the colon on the command line:
`--config=configs/cifar.py:loss=nonl,dataset=cifar100,decay_epochs=60/75/90`.
Recipes whose values differ in the paper's released code also take `variant=released_code`.
"""

import difflib
import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from hsproto.errors import UserError
from hsproto.methods import (
    BLOCK_LOSSES,
    ENCODER_LOSSES,
    LOSSES,
    METHODS,
    QUEUE_LOSSES,
    SOFT_LABEL_LOSSES,
    SOFTMAX_LOSSES,
)

# How pictures can be resized; the first where nothing asks for another.
INTERPOLATIONS = ("bilinear", "bicubic")
# Sources of whole pictures of any size, which can be cropped on the host.
PICTURE_SOURCES = ("folder", "tfds")
# Lists of classes and groups of classes that have a name; `hsproto.data.class_lists` holds them.
CLASS_LISTS = ("imagenet100_cmc", "imagenet100_kaggle")
CLASS_GROUPS = ("cifar100_coarse",)

# Keys that say how a run is watched and stored, not what it computes: they may change on resuming.
OPERATIONAL = (
    "data_dir",
    "placement",
    "workers",
    "log_every",
    "keep_checkpoints",
    "keep_best",
    "tensorboard",
    "checkpoint_every_epochs",
    "scl_block",
    "class_block",
    "model_axis",
    "snapshot_points",
    "variant",  # the values that it stands for are compared themselves
)
# Values that runs had before their keys existed, where those are not today's defaults.
_VALUES_BEFORE_KEYS = {"crop_on": "device", "interpolation": "bilinear"}


def default() -> ConfigDict:
    """Return the paper's CIFAR protocol on the digits; the comments explain each key."""
    c = ConfigDict()
    c.seed = 42
    c.variant = ""  # whose values a recipe takes: paper | released_code; empty: it has no variants

    # Data. `source` is how the data set is stored, `dataset` its name there.
    c.dataset = "digits"
    c.source = "digits"  # digits | arrays | folder | tfds | features
    c.data_dir = ""
    c.num_classes = 0  # 0: take it from the data
    # The classes to use: imagenet100_cmc | imagenet100_kaggle, or names such as 0/1/7, labeled in
    # that order; empty: all.
    c.class_list = ""
    c.class_groups = ""  # use groups of classes as labels: cifar100_coarse; empty: the classes
    # Share of the images of each class that a folder without a test split holds out, or of the rows
    # that take the place of the test set with source=features; 0: none.
    c.validation_share = 0.0
    c.skip_unreadable = False  # leave out images that cannot be decoded, instead of refusing them
    c.num_examples = 0  # training images; 0: take it from the data
    c.image_size = 32  # side of the image that the network sees
    c.channels = 3  # of features: their number; 0: take it from the data
    c.imbalance_factor = 1.0  # size of the rarest class over the most frequent one's; 1: all images
    # Selects the images to use if imbalance_factor is below 1, and those of validation_share.
    c.subset_seed = 0
    c.load_size = 0  # side of the square that is loaded from disk; 0: image_size
    c.sampler = "shuffle"  # shuffle | classes (every batch holds every class, if it can)
    # With sampler=classes: images of each class of a batch, which then holds batch_size over this
    # many classes; 0: as many classes as it can.
    c.images_per_class = 0
    c.batch_binding = False  # a fixed image of each class in every batch
    c.placement = "auto"  # auto | resident (on the devices) | stream (from disk)
    c.workers = 0  # processes that decode a streamed data set; 0: threads

    # Augmentation, on the device, except for the random crop if `crop_on` is host.
    c.crop_scale = (0.2, 1.0)  # share of the area; 1/1: no random crop
    c.crop_ratio = (3 / 4, 4 / 3)
    # device: from the center square of load_size. host: from the whole picture as it is read, of
    # folder or tfds. auto: host if such a data set is streamed when the run begins.
    c.crop_on = "auto"
    c.flip = True
    c.jitter = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    c.jitter_probability = 0.8
    c.grayscale_probability = 0.0
    c.blur_probability = 0.0
    c.mean = ()  # per channel, of values in 0..1; empty: the known ones of the data set
    c.std = ()
    # How pictures are resized: bilinear | bicubic; empty: as the weights of init_from were trained.
    c.interpolation = ""

    # Model.
    # resnet18 | 34 | 50 | 101 | 152, vit_s, vit_b, efficientnet_lite0, convnet, convnet_wide,
    # features (as they are)
    c.backbone = "resnet18"
    c.hidden_layers = ()  # widths of layers with ReLU on backbone=features
    # Weights that the backbone starts from: a file, or package:efficientnet_lite0; empty: none.
    c.init_from = ""
    c.stem = "cifar"  # cifar | imagenet
    c.width = 64  # channels of the first stage
    c.patch_size = 16  # of a ViT
    c.dtype = "float32"  # of the backbone: float32 | bfloat16
    c.embedding = "pooled"  # pooled | signed | signed_bn
    c.embedding_dim = 0  # of a signed embedding; 0: the backbone's
    c.bn_groups = 1  # groups of the batch with separate BatchNorm statistics; 1: global
    c.head = ""  # prototypes | etf | linear | none; empty: the loss's default
    c.projection = "none"  # SCL's head: none | linear | mlp
    c.projection_dim = 128

    # Loss.
    c.loss = "nonl"
    c.temperature = 0.1
    # Strength of the logit adjustment for long tails, with cross_entropy and normface; 0: none.
    c.logit_adjustment = 0.0
    c.balanced_lengths = False  # dot_regression: longer prototypes for rarer classes of a batch
    c.label_smoothing = 0.0  # share of each label that is spread over all classes
    c.mixup = 0.0  # a of Beta(a, a), by which pairs of images and labels are mixed; 0: none
    c.loss_groups = 1  # groups of the batch that do not share negatives; 1: global
    c.queue_size = 0  # past embeddings in the loss, for ntce, nonl and scl
    c.queue_momentum = 0.0  # of the moving-average encoder that fills the queue; 0: the encoder
    c.scl_block = 0  # SCL's anchors per device at a time, to save memory; 0: all
    c.class_block = 0  # classes at a time in loss and evaluation, to save memory; 0: all
    c.model_axis = 1  # devices over which the classes are split; 1: each holds all prototypes

    # Optimizer: SGD with momentum. The learning rate is base_lr · batch_size / lr_batch.
    c.batch_size = 512  # over all devices
    c.microbatches = 1  # parts that pass the backbone in turn; the loss is that of the whole batch
    c.epochs = 1000.0
    # At first, while the backbone is frozen and only what stands on it learns; -1: all epochs on a
    # CPU, half of them elsewhere.
    c.freeze_epochs = 0.0
    c.base_lr = 0.1
    c.lr_batch = 256  # 0: base_lr is the learning rate itself
    c.schedule = "cosine"  # cosine (to 0.1³ of the peak) | step
    c.warmup_epochs = 0.0
    c.warmup_lr = 0.01  # where the linear warm-up starts
    c.decay_epochs = ()  # of the step schedule
    c.decay_rate = 0.2
    c.momentum = 0.9
    c.weight_decay = 1e-4

    # The run.
    c.log_every = 10  # steps
    c.eval_every_epochs = 50.0
    c.eval_batch_size = 500
    c.checkpoint_every_epochs = 10.0
    c.keep_checkpoints = 2
    c.keep_best = False  # also the state whose evaluation found the highest test accuracy
    c.snapshot_points = 300  # test images whose features each evaluation stores; 0: none
    c.tensorboard = False
    return c


def with_argument(
    config: ConfigDict, argument: str | None = None, released_code: dict | None = None
) -> ConfigDict:
    """Set the values of an argument in `config` and return it.

    Args:
        config: The recipe's config; its values give the types.
        argument: `key=value,key=value`; tuples with slashes (`decay_epochs=60/75/90`).
        released_code: The values of the recipe's `variant=released_code`, which the argument's own
            values override; None if the recipe has no variants.

    Raises:
        UserError: If a key is unknown or a value has the wrong type.
    """
    items = _items(argument)
    variant = dict(items).get("variant")
    if released_code is not None:
        config.variant = variant or "paper"
        config.update(released_code if variant == "released_code" else {})
    elif variant is not None:
        raise UserError(f"config key variant={variant!r}: this recipe has none, leave it out")
    for key, text in items:
        set_value(config, key, text, in_argument=True)
    return config


def argument_value(argument: str | None, key: str, default: Any) -> Any:
    """Return the value of `key` in an argument, typed as `default`; `default` if it has none.

    For recipes whose values depend on another key's. Raises UserError as `with_argument`.
    """
    items = dict(_items(argument))
    return _typed(key, items[key], default) if key in items else default


def _items(argument):
    items, keys = [], set()
    for item in filter(None, (argument or "").split(",")):
        key, equals, text = item.partition("=")
        if not equals:
            raise UserError(f"config argument {item!r} is not of the form key=value")
        if key in keys:
            raise UserError(f"config argument gives {key} twice: {argument!r}")
        keys.add(key)
        items.append((key, text))
    return items


def set_value(config: ConfigDict, key: str, text: str, in_argument: bool = False) -> None:
    """Set a key from text, typed by its current value. Raises UserError as `with_argument`."""
    if key not in config:
        raise unknown_key(key, config)
    if key == "variant" and not in_argument:
        raise UserError(
            f"config key variant={text!r} must be an argument of the recipe: "
            f"--config=FILE.py:variant={text}"
        )
    config[key] = _typed(key, text, config[key])


def _typed(key, text, current):
    try:
        if isinstance(current, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(current, tuple):
            # Slashes, since commas separate the keys of an argument; an override may be a tuple.
            parts = re.split("[/,]", text.strip("()[] "))
            return tuple(float(part) for part in parts if part.strip())
        return type(current)(text)
    except (ValueError, KeyError):
        kind = {bool: "true or false", tuple: "numbers joined by /"}.get(
            type(current), type(current).__name__
        )
        raise UserError(f"config key {key}={text!r} must be {kind}, e.g. {current!r}") from None


def unknown_key(key: str, config: ConfigDict) -> UserError:
    """Return the error for a key that `config` does not have."""
    close = difflib.get_close_matches(key, list(config), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(sorted(config))}"
    return UserError(f"unknown config key {key!r}; {hint}")


_CHOICES = {
    "source": ("digits", "arrays", "folder", "tfds", "features"),
    "sampler": ("shuffle", "classes"),
    "placement": ("auto", "resident", "stream"),
    "crop_on": ("auto", "host", "device"),
    "loss": LOSSES,
    "schedule": ("cosine", "step"),
    "interpolation": ("", *INTERPOLATIONS),
    "variant": ("", "paper", "released_code"),
    "class_groups": ("", *CLASS_GROUPS),
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
    return several or text in ("", *CLASS_LISTS)


def _is_range(value):
    return len(value) == 2 and _SMALLEST < value[0] <= value[1] < 2**31


def _is_jitter(value):
    return len(value) == 4 and all(0 <= v < 2**31 for v in value) and value[3] <= 0.5


_RULES = (
    _Rule(
        "class_list",
        _is_class_list,
        f"one of: nothing, {', '.join(CLASS_LISTS)}, or names of two or more classes, e.g. 0/1/7",
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
    if config.skip_unreadable and config.source not in PICTURE_SOURCES:
        raise UserError(
            f"config key skip_unreadable=True goes with source={' or '.join(PICTURE_SOURCES)}; "
            f"source={config.source!r} has no image files"
        )
    if config.crop_on == "host" and config.source not in PICTURE_SOURCES:
        raise UserError(
            "config key crop_on='host' crops pictures as they are read from source="
            f"{' or '.join(PICTURE_SOURCES)}; with source={config.source!r} use auto or device"
        )
    if config.crop_on == "host" and not has_random_crop(config):
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
    if config.embedding == "signed_bn" and rows_per_step(config) == groups:
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
    rows = rows_per_step(config)
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
    if total_steps(config) >= 2**31:
        raise UserError(
            f"epochs={config.epochs:g} are {total_steps(config)} steps of batch_size="
            f"{config.batch_size}: at most 2**31 are counted"
        )


def to_json(config: ConfigDict) -> str:
    """Return a config as the text of a run's config.json."""
    return json.dumps(config.to_dict(), indent=1, sort_keys=True)


def to_values(config: ConfigDict) -> dict[str, Any]:
    """Return a config as the values that JSON gives back: lists in place of tuples."""
    return json.loads(to_json(config))


def from_json(text: str | bytes) -> ConfigDict:
    """Return the config that `to_json` wrote; `hsproto.runs.config_file` reads that of a run."""
    return from_stored(json.loads(text))


def from_stored(stored: Mapping[str, Any]) -> ConfigDict:
    """Return a run's config from the values that its config.json holds."""
    config = default()
    config.update(_VALUES_BEFORE_KEYS)
    for key, value in stored.items():
        config[key] = tuple(value) if isinstance(value, list) else value
    return config


def with_defaults(stored: dict) -> dict:
    """Return a run's config, as read from JSON, with the keys that its version did not have."""
    return _values_of_earlier_runs() | stored


@functools.cache  # a report asks for the settings of each of its runs many times
def _values_of_earlier_runs():
    return default().to_dict() | _VALUES_BEFORE_KEYS


def differences(config: ConfigDict, other: ConfigDict) -> list[str]:
    """Return the keys whose values differ, except for those that may change on resuming."""
    return [k for k in sorted(config) if k not in OPERATIONAL and config[k] != other[k]]


def has_random_crop(config: ConfigDict) -> bool:
    return tuple(config.crop_scale) != (1.0, 1.0)


def num_views(config: ConfigDict) -> int:
    """Return the number of augmented views per image."""
    return 2 if config.loss in ENCODER_LOSSES else 1


def rows_per_step(config: ConfigDict) -> int:
    """Return the number of embeddings per batch, all views together."""
    return config.batch_size * num_views(config)


def steps_per_epoch(config: ConfigDict) -> float:
    """Return the steps in which each training image is seen once on average."""
    return config.num_examples / config.batch_size


def total_steps(config: ConfigDict) -> int:
    """Return the steps of a whole training run."""
    return max(1, round(config.epochs * steps_per_epoch(config)))
