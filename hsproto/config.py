"""The configuration of a run: its keys and defaults, and what follows from them.

A recipe in `configs/` defines `get_config(arg)`: a config with the recipe's values, passed through
`with_argument(config, arg)` for the values after the colon on the command line:
`--config=configs/cifar.py:loss=nonl,dataset=cifar100,decay_epochs=60/75/90`.
Recipes whose values differ in the paper's released code also take `variant=released_code`.
"""

import difflib
import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from hsproto.errors import UserError
from hsproto.methods import (
    ENCODER_LOSSES,
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
    "remat",
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
    c.remat = False  # compute a block's insides again for the gradient, to save memory
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


def shown(value: Any) -> str:
    """Return a value as messages show it: whole numbers, which may be floats, without a point."""
    if isinstance(value, tuple):
        return "/".join(map(shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else repr(value)


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
