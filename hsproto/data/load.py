"""The training and the test source of a data set, and what a config takes over from them."""

import collections
from typing import Any

import numpy as np

from hsproto.config import INTERPOLATIONS
from hsproto.data import class_lists, decode, loader, long_tail, subsets
from hsproto.data import source as source_lib
from hsproto.data.arrays import load_arrays
from hsproto.data.digits import load_digits
from hsproto.data.features import load_features, statistics
from hsproto.data.folder import load_folder
from hsproto.data.source import DataSpec, Splits, data_spec
from hsproto.data.tfds import load_tfds
from hsproto.errors import UserError, one_line, visible
from hsproto.parallel.processes import log_main

_READERS = {
    "arrays": load_arrays,
    "digits": load_digits,
    "features": load_features,
    "folder": load_folder,
    "tfds": load_tfds,
}


def load_splits(config: Any) -> Splits:
    """Return the training and the test source that a config names, by `read_splits`."""
    return read_splits(data_spec(config))


def read_splits(spec: DataSpec) -> Splits:
    """Read the training and the test source of `spec.dataset`, stored as `spec.source` says.

    In this order: `skip_unreadable` leaves out images that cannot be decoded, `class_list` selects
    classes, `class_groups` merges them into groups
    (`hsproto.data.class_lists`), and `imbalance_factor` thins out the training set
    (`hsproto.data.long_tail`).

    Raises:
        UserError: the data are missing, malformed, or not what `spec` says (`num_classes`,
            `channels`, and for sources in memory the image size). One line with the key or path,
            what is wrong with it, and the way out.
    """
    if spec.source not in _READERS:
        raise UserError(
            f"config key source={spec.source!r} is unknown: use one of {', '.join(_READERS)}"
        )
    try:
        splits = _READERS[spec.source](spec)
    except OSError as error:  # e.g. a name that is too long, or a folder that may not be entered
        reason = error.strerror or one_line(error)
        raise UserError(
            f"config key data_dir={spec.data_dir[:200]}: the data of {spec.dataset[:200]!r} cannot "
            f"be read: {reason}"
        ) from error
    if spec.skip_unreadable:
        splits = Splits(*(_readable(split, name) for name, split in splits._asdict().items()))
    for name, source in zip(splits._fields, splits, strict=True):
        if len(source) == 0:
            raise UserError(f"the {name} split of {spec.dataset!r} holds no image")
    # Groups have a message of their own.
    names = () if spec.class_groups else splits.train.class_names
    if repeated := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise UserError(
            f"{spec.dataset!r} has several classes of the name {repeated[0]!r}: rename all but one"
        )
    if spec.class_list:
        splits = Splits(*(class_lists.select(split, spec.class_list) for split in splits))
    if spec.class_groups:
        splits = Splits(*(class_lists.group(split, spec.class_groups) for split in splits))
    check_num_classes(spec, splits)
    if spec.imbalance_factor < 1:
        rare = long_tail.subset(splits.train, spec.imbalance_factor, spec.subset_seed)
        splits = splits._replace(train=rare)
    return splits


def check_num_classes(spec: DataSpec, splits: Splits) -> None:
    """Raise UserError if the data have another number of classes than `spec` says."""
    num_classes = len(splits.train.class_names)
    if spec.num_classes not in (0, num_classes):
        raise UserError(
            f"config key num_classes={spec.num_classes}, but {spec.dataset!r} has {num_classes} "
            f"classes: set num_classes={num_classes}, or 0 to take it from the data"
        )


def _readable(source, split):
    """Return the images of a source that can be decoded; each is decoded once to find out."""
    unreadable = decode.find_unreadable(source)
    if not unreadable:
        return source
    example = visible(next(iter(unreadable.values())))
    log_main(
        f"{len(unreadable)} of {len(source)} {split} images are unreadable and left out "
        f"(skip_unreadable), e.g. {example}"
    )
    kept = np.setdiff1d(np.arange(len(source)), list(unreadable))
    if split == "train":
        counts = np.bincount(np.asarray(source.labels)[kept], minlength=len(source.class_names))
        for name, count in zip(source.class_names, counts, strict=True):
            if not count:
                raise UserError(f"no training image of class {name!r} is readable: remove it")
    return subsets.of_rows(source, kept)


def resolve(config: Any, splits: Splits, earlier: Any = None) -> Any:
    """Return `config` with what the data decide filled in: classes, images, mean, std, crop_on;
    and the way pictures are resized.

    Args:
        earlier: the resolved config of a run that is resumed. It keeps the place of its crop,
            wherever its images lie now.

    Raises:
        UserError: the config contradicts the data.
    """
    counts = {"num_classes": len(splits.train.class_names), "num_examples": len(splits.train)}
    for key, value in counts.items():
        if config[key] not in (0, value):
            raise UserError(f"config key {key}={config[key]}, but the training data have {value}")
    if config.batch_size > len(splits.train):
        raise UserError(
            f"config key batch_size={config.batch_size} is larger than the training set of "
            f"{len(splits.train)} images: take a smaller one"
        )
    config = config.copy_and_resolve_references()
    config.update(counts)
    if config.source == "features":
        config.channels = splits.train.images.shape[-1]
        if not config.mean and not config.std:
            config.mean, config.std = statistics(splits.train.images)
    config.mean, config.std = source_lib.normalization(config)
    config.interpolation = config.interpolation or INTERPOLATIONS[0]
    if config.crop_on == "auto":
        config.crop_on = earlier.crop_on if earlier else loader.crop_place(splits.train, config)
    return config
