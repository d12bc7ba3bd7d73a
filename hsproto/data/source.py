"""What a source of labeled images is, how a config names one, and known pixel statistics."""

import abc
import dataclasses
import os
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hsproto.config import INTERPOLATIONS
from hsproto.errors import UserError


class Source(abc.ABC):
    """Labelled images with random access, all of them squares of one size.

    Attributes:
        labels: int [N], in 0..K-1.
        class_names: K names, which the labels index.
        labels_at_hand: whether `labels` can be had without reading the images.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    labels_at_hand = True

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abc.abstractmethod
    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        """Return an image, uint8 [H, W, C], and its label."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of all images."""
        return self[0][0].shape

    def check(self, rows: np.ndarray | None = None) -> None:  # noqa: B027 - not for every source
        """Raise UserError for bad input that can be found before images are streamed.

        Args:
            rows: those that matter; all by default.
        """

    def identity(self, rows: np.ndarray) -> Iterable[bytes]:
        """Yield what tells the images `rows` from others, wherever and whenever they are read.

        It is for `data.fingerprint`, and as cheap as a source can make it. Here: the pixels.
        """
        for row in rows:
            yield self[int(row)][0].tobytes()


class PictureSource(Source):
    """A source whose images are stored as pictures of any size, out of which squares are cut."""

    @abc.abstractmethod
    def picture(self, i: int) -> tuple[Image.Image, int]:
        """Return a whole picture, as it is stored, and its label."""


class Splits(NamedTuple):
    """The training and the test source of a data set."""

    train: Source
    test: Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSpec:
    """A data set and how it is read: the config keys of these names.

    An `image_size` or `channels` of 0 accepts any, of sources in memory.
    """

    source: str
    dataset: str
    data_dir: str = ""
    image_size: int
    channels: int
    load_size: int = 0
    interpolation: str = ""
    num_classes: int = 0
    class_list: str = ""
    class_groups: str = ""
    imbalance_factor: float = 1.0
    subset_seed: int = 0
    validation_share: float = 0.0
    skip_unreadable: bool = False

    @property
    def side(self) -> int:
        """Side of the squares that a source yields; augmentation cuts `image_size` out of them."""
        return self.load_size or self.image_size

    @property
    def resample(self) -> Image.Resampling:
        """How Pillow resizes pictures; bilinear where nothing is said."""
        return resampling(self.interpolation)

    def existing_data_dir(self) -> pathlib.Path:
        """Return `data_dir` as a path. Raises UserError where it is empty or does not exist."""
        if not self.data_dir:
            raise UserError(
                f"config key source={self.source!r} needs data_dir: the location of the data"
            )
        path = os.path.expanduser(self.data_dir)
        if path.startswith("~"):
            raise UserError(
                f"config key data_dir={self.data_dir} names the home of an unknown user"
            )
        if not os.path.exists(path):
            raise UserError(
                f"config key data_dir={self.data_dir} does not exist: give the location of the "
                "data, to train by --config.data_dir=DIR, to other commands by --data_dir=DIR"
            )
        return pathlib.Path(path)


def resampling(interpolation: str) -> Image.Resampling:
    """Return Pillow's name of a value of the config key `interpolation`."""
    return Image.Resampling[(interpolation or INTERPOLATIONS[0]).upper()]


def data_spec(config: Any) -> DataSpec:
    """Return the `DataSpec` of a config."""
    return DataSpec(**{field.name: config[field.name] for field in dataclasses.fields(DataSpec)})


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_NORMALIZATION = {
    "cifar10": _CIFAR10,
    "cifar10_corrupted": _CIFAR10,
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "digits": ((0.3054,), (0.3760,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
}


def normalization(config: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, std) per channel of pixel values in 0..1.

    `config.mean` and `config.std` where given, else the known ones of the data set (the paper's for
    CIFAR; digits and Fashion-MNIST: measured on their training images). Data sets not listed get
    ImageNet's for 3 channels and 0.5 / 0.5 for 1.

    Raises:
        UserError: only one of the two keys is given.
    """
    if config.mean and config.std:
        return tuple(config.mean), tuple(config.std)
    if config.mean or config.std:
        raise UserError("config keys mean and std go together: give both, or neither")
    if config.source == "features":
        raise UserError("config keys mean and std of features come from the training set")
    name = config.dataset.split("/")[0].split(":")[0]
    known = _NORMALIZATION.get(name)
    if known and len(known[0]) == config.channels:
        return known
    return _IMAGENET if config.channels == 3 else ((0.5,) * config.channels,) * 2
