"""What a run is: one flat, typed configuration, its argument string and its checks.

A file in `configs/` defines `get_config(arg)`: `default()` with the recipe's values, then
`with_argument(config, arg)` for what stands behind the colon on the command line:
`--config=configs/cifar.py:loss=nonl,dataset=cifar100,decay_epochs=60/75/90`.
Recipes of the paper whose released code has other values take `variant=released_code` too.
"""

import difflib
import functools
import json
import math
import re

import ml_collections

from hsproto.errors import UserError
from hsproto.methods import ENCODER_LOSSES, LOSSES, QUEUE_LOSSES, SOFTMAX_LOSSES

# Sources of whole pictures of any size, which can be cropped on the host.
PICTURE_SOURCES = ("folder", "tfds")
# Lists of classes and groups of classes that go by a name; `hsproto.data.class_lists` holds them.
CLASS_LISTS = ("imagenet100_cmc", "imagenet100_kaggle")
CLASS_GROUPS = ("cifar100_coarse",)


_ALLOWED = {
    "source": ("digits", "arrays", "folder", "tfds"),
    "sampler": ("shuffle", "classes"),
    "placement": ("auto", "resident", "stream"),
    "crop_on": ("auto", "host", "device"),
    "channels": (1, 3),
    "loss": LOSSES,
    "schedule": ("cosine", "step"),
    "variant": ("", "paper", "released_code"),
    "class_groups": ("", *CLASS_GROUPS),
}
_POSITIVE = ("image_size", "width", "temperature", "batch_size", "epochs", "base_lr", "log_every")
_POSITIVE += ("eval_batch_size", "keep_checkpoints", "patch_size", "projection_dim", "decay_rate")
_POSITIVE += ("eval_every_epochs", "checkpoint_every_epochs")
_POSITIVE += ("loss_groups", "bn_groups", "microbatches")
_NOT_NEGATIVE = ("num_classes", "num_examples", "load_size", "workers", "embedding_dim", "seed")
_NOT_NEGATIVE += (
    "queue_size",
    "scl_block",
    "lr_batch",
    "warmup_epochs",
    "warmup_lr",
    "weight_decay",
    "subset_seed",
    "logit_adjustment",
    "snapshot_points",
)
_PROBABILITIES = ("jitter_probability", "grayscale_probability", "blur_probability")

# Keys that say how a run is watched and kept, not what it computes: they may change on resuming.
OPERATIONAL = ("data_dir", "placement", "workers", "log_every", "keep_checkpoints", "tensorboard")
OPERATIONAL += ("checkpoint_every_epochs", "scl_block", "snapshot_points")
OPERATIONAL += ("variant",)  # the values that it stands for are compared themselves


def default():
    """The paper's CIFAR protocol as a ConfigDict; each key with its meaning."""
    c = ml_collections.ConfigDict()
    c.seed = 42
    c.variant = ""  # whose values a recipe took: paper | released_code; empty: it has no variants

    # Data. `source` is how the set is stored, `dataset` its name there.
    c.dataset = "digits"
    c.source = "digits"  # digits | arrays | folder | tfds
    c.data_dir = ""
    c.num_classes = 0  # 0: as many as the data have
    # The classes that stay: imagenet100_cmc | imagenet100_kaggle, or names as 0/1/7, which are then
    # labelled in that order; empty: all.
    c.class_list = ""
    c.class_groups = ""  # labels are those of groups of classes: cifar100_coarse; empty: own ones
    c.num_examples = 0  # training images; 0: as many as the data have
    c.image_size = 32  # side of the image that the network sees
    c.channels = 3
    c.imbalance_factor = 1.0  # the rarest class's share of the commonest one's images; 1: all stay
    c.subset_seed = 0  # picks the images that stay where imbalance_factor is below 1
    c.load_size = 0  # side of the square that is loaded from disk; 0: image_size
    c.sampler = "shuffle"  # shuffle | classes (every batch holds every class, if it can)
    c.batch_binding = False  # a fixed image of each class in every batch
    c.placement = "auto"  # auto | resident (on the devices) | stream (from disk)
    c.workers = 0  # processes that decode a streamed set; 0: threads

    # Augmentation, on the device, but for the random crop where `crop_on` is host.
    c.crop_scale = (0.2, 1.0)  # share of the area; 1/1: no random crop
    c.crop_ratio = (3 / 4, 4 / 3)
    # device: out of the centre square of load_size. host: out of the whole picture when it is read,
    # of folder or tfds. auto: host where such a set is streamed when the run begins.
    c.crop_on = "auto"
    c.flip = True
    c.jitter = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    c.jitter_probability = 0.8
    c.grayscale_probability = 0.0
    c.blur_probability = 0.0
    c.mean = ()  # per channel, of values in 0..1; empty: what is known of the set
    c.std = ()

    # Model.
    c.backbone = "resnet18"  # resnet18 | 34 | 50 | 101 | 152, vit_s, vit_b, convnet, convnet_wide
    c.stem = "cifar"  # cifar | imagenet
    c.width = 64  # channels of the first stage
    c.patch_size = 16  # of a ViT
    c.dtype = "float32"  # of the backbone: float32 | bfloat16
    c.embedding = "pooled"  # pooled | signed | signed_bn
    c.embedding_dim = 0  # of a signed embedding; 0: the backbone's
    c.bn_groups = 1  # groups of the batch with BatchNorm statistics of their own; 1: global
    c.head = ""  # prototypes | etf | linear | none; empty: what the loss needs
    c.projection = "none"  # SCL's head: none | linear | mlp
    c.projection_dim = 128

    # Loss.
    c.loss = "nonl"
    c.temperature = 0.1
    # Strength of the logit adjustment for long tails, of cross_entropy and normface; 0: none.
    c.logit_adjustment = 0.0
    c.balanced_lengths = False  # dot_regression's prototypes longer, the rarer the class in a batch
    c.loss_groups = 1  # groups of the batch that see no negatives of each other; 1: global
    c.queue_size = 0  # past embeddings that stay in the loss, of ntce, nonl and scl
    c.queue_momentum = 0.0  # of the moving-average encoder that fills the queue; 0: the encoder
    c.scl_block = 0  # SCL's anchors on a device at a time, to save memory; 0: all

    # Optimiser: SGD with momentum. The rate is base_lr · batch_size / lr_batch.
    c.batch_size = 512  # of all devices together
    c.microbatches = 1  # parts that pass the backbone one by one; the loss is of the whole batch
    c.epochs = 1000.0
    c.base_lr = 0.1
    c.lr_batch = 256  # 0: base_lr is the rate itself
    c.schedule = "cosine"  # cosine (to 0.1³ of the rate) | step
    c.warmup_epochs = 0.0
    c.warmup_lr = 0.01  # where a linear warm-up starts
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
    c.snapshot_points = 300  # test images whose features are kept at each evaluation; 0: none
    c.tensorboard = False
    return c


def with_argument(config, argument=None, released_code=None):
    """`config` with the `key=value,key=value` of a command line, typed by the defaults.

    Tuples are written with slashes (`decay_epochs=60/75/90`). `released_code`, a dict, holds the
    values of the recipe's `variant=released_code`; the argument's own values go before them.
    Raises UserError on an unknown key or a value of another type.
    """
    items = _items(argument)
    variant = dict(items).get("variant")
    if released_code is not None:
        config.variant = variant or "paper"
        config.update(released_code if variant == "released_code" else {})
    elif variant is not None:
        raise UserError(f"config key variant={variant!r}: this recipe has none, leave it out")
    for key, text in items:
        set_value(config, key, text, behind_colon=True)
    return config


def argument_value(argument, key, default):
    """The value of `key` in an argument string, typed as `default`, or `default` without one.

    For recipes whose values depend on another key's. Raises UserError as `with_argument`.
    """
    items = dict(_items(argument))
    return _typed(key, items[key], default) if key in items else default


def _items(argument):
    items = []
    for item in filter(None, (argument or "").split(",")):
        key, equals, text = item.partition("=")
        if not equals:
            raise UserError(f"config argument {item!r} is not of the form key=value")
        items.append((key, text))
    return items


def set_value(config, key, text, behind_colon=False):
    """Sets a key from text, typed by its default. Raises UserError as `with_argument`."""
    if key not in config:
        raise unknown_key(key, config)
    if key == "variant" and not behind_colon:
        raise UserError(
            f"config key variant={text!r} is for the recipe to act on: "
            f"--config=FILE.py:variant={text}"
        )
    config[key] = _typed(key, text, config[key])


def validate(config):
    """Raises UserError on the first value that cannot be run, naming what is allowed."""
    for key, allowed in _ALLOWED.items():
        if config[key] not in allowed:
            choices = ", ".join(str(value) or "nothing" for value in allowed)
            raise UserError(f"config key {key}={config[key]!r} must be one of: {choices}")
    _check_class_list(config.class_list)
    for keys, holds, wanted in (
        (_POSITIVE, lambda v: math.isfinite(v) and v > 0, "a positive number"),
        (_NOT_NEGATIVE, lambda v: math.isfinite(v) and v >= 0, "zero or a positive number"),
        (_PROBABILITIES, lambda v: 0 <= v <= 1, "a probability in 0..1"),
        (("seed", "subset_seed"), lambda v: v < 2**32, "a number below 2**32"),
        (("imbalance_factor",), lambda v: 0 < v <= 1, "above 0 and at most 1"),
        (("mean",), lambda v: all(map(math.isfinite, v)), "finite numbers"),
        (("momentum", "queue_momentum"), lambda v: 0 <= v < 1, "at least 0 and below 1"),
        (("crop_scale",), lambda v: _is_range(v) and v[1] <= 1, "two shares of the area, as 0.2/1"),
        (("crop_ratio",), _is_range, "two positive aspect ratios, as 0.75/1.33"),
        (("jitter",), _is_jitter, "four strengths, as 0.4/0.4/0.4/0.1 (hue at most 0.5)"),
        (("decay_epochs",), _is_increasing, "increasing positive epochs, as 60/75/90"),
    ):
        for key in keys:
            if not holds(config[key]):
                raise UserError(f"config key {key}={config[key]!r} must be {wanted}")
    for key in ("mean", "std"):
        if len(config[key]) not in (0, config.channels):
            raise UserError(f"config key {key}={config[key]!r} must have {config.channels} values")
    if not all(0 < value < math.inf for value in config.std):
        raise UserError(f"config key std={config.std!r} must hold positive numbers")
    if config.crop_on == "host" and config.source not in PICTURE_SOURCES:
        raise UserError(
            f"config key crop_on='host' cuts pictures as they are read from source="
            f"{' or '.join(PICTURE_SOURCES)}; with source={config.source!r} take auto or device"
        )
    if config.crop_on == "host" and not has_random_crop(config):
        raise UserError(
            "config key crop_on='host' is for a random crop, and crop_scale=1/1 is none: take "
            "auto or device"
        )
    for key in ("loss_groups", "bn_groups", "microbatches"):
        if config.batch_size % config[key]:
            raise UserError(
                f"config key {key}={config[key]} must divide batch_size={config.batch_size}"
            )
    if config.bn_groups > 1 and config.bn_groups % config.microbatches:
        raise UserError(
            f"config key bn_groups={config.bn_groups} must be 1 or a multiple of "
            f"microbatches={config.microbatches}: a microbatch has statistics of its own"
        )
    if config.balanced_lengths and config.loss != "dot_regression":
        raise UserError(
            f"config key balanced_lengths=True goes with dot_regression; got loss={config.loss!r}"
        )
    if config.logit_adjustment:
        _check_logit_adjustment(config)
    if config.queue_size:
        rows = rows_per_step(config)
        if config.loss not in QUEUE_LOSSES:
            raise UserError(
                f"config key queue_size={config.queue_size} goes with {', '.join(QUEUE_LOSSES)}; "
                f"got loss={config.loss!r}"
            )
        if config.queue_size % rows or config.loss_groups > 1:
            raise UserError(
                f"config key queue_size={config.queue_size} must be a multiple of the {rows} "
                "embeddings of a step, and goes with loss_groups=1 alone"
            )
    elif config.queue_momentum:
        raise UserError(f"queue_momentum={config.queue_momentum} needs a queue_size")
    if 0 < config.load_size < config.image_size:
        raise UserError(
            f"config key load_size={config.load_size} must be 0 or at least "
            f"image_size={config.image_size}, which is cut out of it"
        )
    if config.schedule == "step" and not config.decay_epochs:
        raise UserError("schedule=step needs decay_epochs, as decay_epochs=60/75/90")
    if config.warmup_epochs >= config.epochs:
        raise UserError(
            f"warmup_epochs={config.warmup_epochs} must be below epochs={config.epochs}: a short "
            "run may do without, warmup_epochs=0"
        )


def _check_class_list(class_list):
    names = class_list.split("/")
    if class_list in ("", *CLASS_LISTS):
        return
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise UserError(
            f"config key class_list={class_list!r} must be one of: nothing, "
            f"{', '.join(CLASS_LISTS)}, or two or more classes by their names, as 0/1/7"
        )


def _check_logit_adjustment(config):
    key = f"config key logit_adjustment={config.logit_adjustment}"
    if config.loss not in SOFTMAX_LOSSES:
        raise UserError(f"{key} goes with {', '.join(SOFTMAX_LOSSES)}; got loss={config.loss!r}")
    if config.sampler != "shuffle" or config.batch_binding:
        raise UserError(
            f"{key} is for batches in which classes are as frequent as in the set: it goes with "
            "sampler=shuffle and batch_binding=false"
        )


def has_random_crop(config):
    return tuple(config.crop_scale) != (1.0, 1.0)


def num_views(config):
    """Augmented views of an image in a batch."""
    return 2 if config.loss in ENCODER_LOSSES else 1


def rows_per_step(config):
    """Embeddings of a batch, all views together."""
    return config.batch_size * num_views(config)


def to_json(config):
    return json.dumps(config.to_dict(), indent=1, sort_keys=True)


def of_older_runs():
    """{key: value} of runs that are older than the key, where that is not its default."""
    return {"crop_on": "device"}


def from_json(text):
    """The config that `to_json` wrote. Raises UserError where it does not fit this version."""
    config = default()
    config.update(of_older_runs())
    try:
        stored = json.loads(text)
        if not isinstance(stored, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise UserError(f"the run's config.json is damaged ({error})") from None
    for key, value in stored.items():
        if key not in config:
            raise UserError(f"config key {key!r} is not known to this version of hsproto")
        config[key] = tuple(value) if isinstance(value, list) else value
    return config


def differences(config, other):
    """Keys whose values differ between two configs, those that may change on resuming left out."""
    return [k for k in sorted(config) if k not in OPERATIONAL and config[k] != other[k]]


def _typed(key, text, current):
    try:
        if isinstance(current, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(current, tuple):
            # Slashes, as commas part the keys of an argument; an override may be Python's tuple.
            parts = re.split("[/,]", text.strip("()[] "))
            return tuple(float(part) for part in parts if part.strip())
        return type(current)(text)
    except (ValueError, KeyError):
        kind = {bool: "true or false", tuple: "numbers joined by /"}.get(
            type(current), type(current).__name__
        )
        raise UserError(f"config key {key}={text!r} must be {kind}, as {current!r}") from None


def unknown_key(key, config):
    """The UserError for a key that `config` does not have."""
    close = difflib.get_close_matches(key, list(config), n=1)
    known = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(sorted(config))}"
    return UserError(f"unknown config key {key!r}; {known}")


def _is_range(value):
    return len(value) == 2 and 0 < value[0] <= value[1] < math.inf


def _is_jitter(value):
    return len(value) == 4 and all(0 <= v < math.inf for v in value) and value[3] <= 0.5


def _is_increasing(value):
    return all(v > 0 for v in value) and list(value) == sorted(set(value))


def complete(config):
    """A run's config, a dict, with what runs had that are older than a key; unknown keys stay."""
    return _defaults() | config


@functools.cache
def _defaults():
    # What runs that are older than a key had. Made once: a report asks for the settings of each of
    # its runs many times.
    return default().to_dict() | of_older_runs()


def steps_per_epoch(config):
    """Steps in which each training image is seen once on average; need not be whole."""
    return config.num_examples / config.batch_size


def total_steps(config):
    return max(1, round(config.epochs * steps_per_epoch(config)))
