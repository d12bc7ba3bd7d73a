"""How many images and classes a config has, where the data themselves are not at hand."""

from typing import Any

from hsproto import config as config_lib
from hsproto.data import class_lists, loader, long_tail, source
from hsproto.errors import UserError

# Training images, test images and classes of what the recipes name.
_KNOWN = {
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "digits": (1_437, 360, 10),
    "fashion_mnist": (60_000, 10_000, 10),
    "imagenet2012": (1_281_167, 50_000, 1_000),
    "imagenet100": (126_689, 5_000, 100),
    "imagenet_lt": (115_846, 50_000, 1_000),
}
TEST_SHARE = 0.2  # of a set of unknown size, its test images over its training images


def resolve(config: Any) -> Any:
    """Return a config with what the data would decide filled in, as `data.load.resolve` does.

    Raises:
        UserError: The config names data of unknown size and does not give it.
    """
    config = config.copy_and_resolve_references()
    name = config.dataset.split("/")[0].split(":")[0]
    if config.class_list in ("imagenet100_cmc", "imagenet100_kaggle"):
        name = "imagenet100"
    examples, _, classes = _KNOWN.get(name, (0, 0, 0))
    if config.class_groups:
        classes = len(class_lists.CLASS_GROUPS[config.class_groups])
    if config.imbalance_factor < 1 and classes:
        examples = int(long_tail.profile(examples, classes, config.imbalance_factor).sum())
    for key, value in (("num_classes", classes), ("num_examples", examples)):
        config[key] = config[key] or value
        if not config[key]:
            raise UserError(
                f"config key {key}=0: the size of {config.dataset or 'the data set'!r} is known "
                "only from its data; give num_classes and num_examples"
            )
    if config.batch_size > config.num_examples:
        raise UserError(
            f"config key batch_size={config.batch_size} is larger than the training set of "
            f"{config.num_examples} images: take a smaller one"
        )
    if config.source == "features":
        if not config.channels:
            raise UserError("config key channels=0: give the number of features of a row")
        config.mean = config.mean or (0.0,) * config.channels
        config.std = config.std or (1.0,) * config.channels
    config.mean, config.std = source.normalization(config)
    config.interpolation = config.interpolation or config_lib.INTERPOLATIONS[0]
    if config.crop_on == "auto":
        config.crop_on = "host" if _cropped_on_host(config) else "device"
    return config


def test_examples(config: Any) -> int:
    """Return the number of test images; a share of the training images where it is unknown."""
    known = _KNOWN.get(config.dataset.split("/")[0].split(":")[0])
    return known[1] if known else round(TEST_SHARE * config.num_examples)


def resident_bytes(config: Any) -> int:
    """Return the bytes of a set that every device holds as a whole; 0 if it is streamed."""
    side = max(config.load_size, config.image_size)
    width = 4 if config.source == "features" else 1
    # Of pictures the loaders of both splits may be resident; the test set is the smaller part.
    train = config.num_examples * side**2 * config.channels * width
    if config.placement == "stream" or (
        config.placement == "auto" and train > loader.RESIDENT_BYTES
    ):
        return 0
    return train + test_examples(config) * side**2 * config.channels * width


def _cropped_on_host(config):
    pictures = config.source in ("folder", "tfds")
    return pictures and tuple(config.crop_scale) != (1.0, 1.0) and not resident_bytes(config)
