"""What a source of labelled images is, and what is known of the data sets."""

import pathlib
from typing import Any, NamedTuple

from hsproto.errors import UserError

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_NORMALIZATION = {
    "cifar10": _CIFAR10,
    "cifar10_corrupted": _CIFAR10,
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "digits": ((0.3054,), (0.3760,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
}


class Splits(NamedTuple):
    train: Any
    test: Any


def normalization(config):
    """(mean, std) per channel, of pixel values in 0..1, as two tuples.

    `config.mean` and `config.std` where given, else the data set's known ones (the paper's for
    CIFAR; digits and Fashion-MNIST: measured on their training images). Data sets not listed get
    ImageNet's for 3 channels and 0.5 / 0.5 for 1.
    """
    if config.mean and config.std:
        return tuple(config.mean), tuple(config.std)
    if config.mean or config.std:
        raise UserError("config keys mean and std go together: give both, or neither")
    name = config.dataset.split("/")[0].split(":")[0]
    known = _NORMALIZATION.get(name)
    if known and len(known[0]) == config.channels:
        return known
    return _IMAGENET if config.channels == 3 else ((0.5,) * config.channels,) * 2


def load_size(config):
    """Side of the square that a source yields; augmentation cuts `image_size` out of it."""
    return config.load_size or config.image_size


def existing_data_dir(config):
    if not config.data_dir:
        raise UserError(
            f"config key source={config.source!r} needs data_dir: the place of the data"
        )
    path = pathlib.Path(config.data_dir).expanduser()
    if not path.exists():
        raise UserError(
            f"config key data_dir={config.data_dir} does not exist: give the place of the data"
        )
    return path
