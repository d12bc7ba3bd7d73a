"""Sources of labelled images: `digits`, `arrays`, `folder`, `tfds`.

A source is any object with a length, random access and class names:

    len(source)          number of images
    source[i]            (image uint8 [H, W, C], label int in 0..K-1)
    source.class_names   tuple of K strings
    source.check()       optional: looks for bad input before images are streamed from it
    source.picture(i)    optional: (the whole picture as a Pillow image, label), for crops of it

All images of a source are squares of one size; pictures are as they were stored. `load(config)`
gives the training and the test source of a configuration. Whatever is wrong with the data raises
`UserError`: one line with the option or path, what is wrong with it, and the way out.
"""

import os
import pathlib
import zipfile
from typing import Any, NamedTuple

import numpy as np

from hsproto import coarse, decode, imagenet100, longtail, subsets, tfds_source
from hsproto.errors import UserError, one_line

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# Reading the header of every file takes about 0.1 ms each on a local disk. Above this many files
# (ImageNet has 1.28 million) `FolderSource.check` looks at one file of each class.
MAX_CHECKED_FILES = 200_000

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_NORMALISATION = {
    "cifar10": _CIFAR10,
    "cifar10_corrupted": _CIFAR10,
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "digits": ((0.3054,), (0.3760,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
}


class Splits(NamedTuple):
    train: Any
    test: Any


def load(config):
    """The training and the test source of `config.dataset`, read as `config.source` says.

    Of the classes those stay that `config.class_list` names, themselves or by a list of
    `hsproto.imagenet100`; groups of them are the labels where `config.class_groups` says so
    (`hsproto.coarse`), and of the training images those stay that `config.imbalance_factor` leaves
    (`hsproto.longtail`).
    Raises UserError where the data are missing, malformed, or not what `config` says
    (`num_classes`, `channels`, and for arrays and digits the image size). Where `channels` or
    `image_size` is 0, arrays and digits may have any.
    """
    sources = {"arrays": _arrays, "digits": _digits, "folder": _folder, "tfds": _tfds}
    if config.source not in sources:
        raise UserError(
            f"config key source={config.source!r} is unknown: use one of {', '.join(sources)}"
        )
    splits = sources[config.source](config)
    for name, source in zip(splits._fields, splits, strict=True):
        if len(source) == 0:
            raise UserError(f"the {name} split of {config.dataset!r} holds no image")
    if config.class_list:
        splits = Splits(*(_of_class_list(split, config.class_list) for split in splits))
    if config.class_groups:
        splits = Splits(*(coarse.grouped(split, config.class_groups) for split in splits))
    found = len(splits.train.class_names)
    if config.num_classes and config.num_classes != found:
        raise UserError(
            f"config key num_classes={config.num_classes}, but {config.dataset!r} has {found} "
            f"classes: set num_classes={found}, or 0 to take it from the data"
        )
    if config.imbalance_factor < 1:
        rare = longtail.subset(splits.train, config.imbalance_factor, config.subset_seed)
        splits = splits._replace(train=rare)
    return splits


def _of_class_list(source, class_list):
    if class_list in imagenet100.LISTS:
        return imagenet100.subset(source, class_list)
    names, known = class_list.split("/"), source.class_names
    missing = [name for name in names if name not in known]
    if missing:
        theirs = f"{', '.join(known[:10])}{' ...' if len(known) > 10 else ''}"
        raise UserError(
            f"config key class_list={class_list!r}: the data have no class {missing[0]!r}; theirs "
            f"are: {theirs}"
        )
    return subsets.of_classes(source, names)


def normalisation(config):
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
    known = _NORMALISATION.get(name)
    if known and len(known[0]) == config.channels:
        return known
    return _IMAGENET if config.channels == 3 else ((0.5,) * config.channels,) * 2


def load_size(config):
    """Side of the square that a source yields; augmentation cuts `image_size` out of it."""
    return config.load_size or config.image_size


def read_image(path, config):
    """The image file `path` as the sources of `config` give it: uint8 [size, size, channels].

    Converted to grey or RGB (`channels` 1 or 3), the short side resized to `load_size` (bilinear
    with antialiasing, as torchvision's Resize), the centre square cut out. Raises UserError with
    the path of an unreadable image.
    """
    return decode.centre_square(decode.picture(path, config.channels, path), load_size(config))


class ArraySource:
    """Images and labels that lie in memory: uint8 [N, H, W, C] and integers [N]."""

    def __init__(self, images, labels, class_names):
        self.images = images
        self.labels = np.asarray(labels, np.int32)
        self.class_names = tuple(class_names)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], int(self.labels[i])


class FolderSource(decode.EncodedSource):
    """Image files."""

    def __init__(self, paths, labels, class_names, size, channels):
        self.paths = paths
        self.labels = np.asarray(labels, np.int32)
        self.class_names = tuple(class_names)
        self._size, self._channels = size, channels

    def __len__(self):
        return len(self.paths)

    def picture(self, i):
        path = self.paths[i]
        return decode.picture(path, self._channels, path), int(self.labels[i])

    def check(self):
        """Raises UserError with the path of an unreadable image.

        Reads the header of every file (and the check sums that PNG files carry), or of the first
        file of each class where there are more than MAX_CHECKED_FILES. A damaged body shows up
        when the image is decoded.
        """
        paths = self.paths
        if len(paths) > MAX_CHECKED_FILES:
            paths = [paths[i] for i in np.unique(self.labels, return_index=True)[1]]
        decode.check_headers(paths)


def _existing_data_dir(config):
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


def _digits(config):
    """scikit-learn's 1,797 handwritten digits, 8x8, grey.

    Their 17 grey levels are scaled to 0..255. scikit-learn gives no split, so 360 images (20 %,
    each class its share) are drawn once, with a seed of their own, as the test set; the other
    1,437 are the training set, whatever `config.seed` is.
    """
    from sklearn.datasets import load_digits  # half a second that other sources need not pay
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    parts = train_test_split(
        np.arange(len(images)), test_size=360, stratify=digits.target, random_state=0
    )
    train, test = map(np.sort, parts)
    names = [str(digit) for digit in digits.target_names]
    return Splits(
        array_source(images[train], digits.target[train], names, "digits", config),
        array_source(images[test], digits.target[test], names, "digits", config),
    )


def _arrays(config):
    """An npz with {train,test}_{images,labels} and class_names; data_dir is it or its folder."""
    path = _existing_data_dir(config)
    if path.is_dir():
        path = path / f"{config.dataset}.npz"
        if not path.exists():
            raise UserError(
                f"config key data_dir={config.data_dir} holds no {path.name}: put it there, or "
                "set data_dir to the npz file itself"
            )
    keys = ("train_images", "train_labels", "test_images", "test_labels", "class_names")
    try:
        with np.load(path) as file:
            missing = [key for key in keys if key not in file]
            arrays = [] if missing else [file[key] for key in keys]
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        reason = one_line(error)
        raise UserError(f"{path} cannot be read as an npz file ({reason})") from error
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: it must hold {', '.join(keys)}")
    *arrays, names = arrays
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise UserError(
            f"class_names in {path} must be a list of strings; "
            f"got {names.dtype} of shape {names.shape}"
        )
    names = [name.decode() if isinstance(name, bytes) else name for name in names.tolist()]
    return Splits(
        array_source(*arrays[:2], names, f"{path}: train", config),
        array_source(*arrays[2:], names, f"{path}: test", config),
    )


def array_source(images, labels, names, place, config):
    """An `ArraySource` of images uint8 [N, H, W(, C)] and labels [N], which index `names`.

    Raises UserError, which says `place`, where type, shape, channels, size or a label is not what
    `config` says.
    """
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise UserError(
            f"{place} images must be uint8 [N, H, W] or [N, H, W, C]; "
            f"got {images.dtype} of shape {images.shape}"
        )
    if images.ndim == 3:
        images = images[..., None]
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UserError(
            f"{place} labels must be {len(images)} integers, one per image; "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    outside = labels[(labels < 0) | (labels >= len(names))]
    if outside.size:
        raise UserError(
            f"{place} labels must lie in 0..{len(names) - 1} ({len(names)} class names); "
            f"got {outside[0]}"
        )
    _, height, width, channels = images.shape
    if channels != config.channels and config.channels:
        raise UserError(
            f"config key channels={config.channels}, but {place} images have {channels}: "
            f"set channels={channels}"
        )
    size = load_size(config)
    if (height, width) != (size, size) and size:
        option = "load_size" if config.load_size else "image_size"
        raise UserError(
            f"config key {option}={size}, but {place} images are {height}x{width}: "
            + (f"set {option}={height}" if height == width else "they must be square")
        )
    return ArraySource(images, labels, names)


def _folder(config):
    """train/<class>/* and test/<class>/* or val/<class>/*, in data_dir or data_dir/<dataset>.

    Classes are in the order of their sorted names. Files count as images by their suffix, at any
    depth below the class folder; hidden ones do not count.
    """
    root, tests = _folder_parts(config)
    train, test = root / "train", tests[0]
    names = class_folders(train)
    if not names:
        raise UserError(f"{train} holds no class folder: expected <class>/<image files>")
    different = sorted(set(names) ^ set(class_folders(test)))
    if different:
        raise UserError(
            f"{train} and {test} must have the same classes; only one of them has "
            f"{', '.join(different[:3])}{' ...' if len(different) > 3 else ''}"
        )
    return Splits(folder_source(train, names, config), folder_source(test, names, config))


def folder_validation(config):
    """The source of `val` where a folder has it beside `test`, or None."""
    root, tests = _folder_parts(config)
    if len(tests) < 2:
        return None
    return folder_source(tests[1], class_folders(root / "train"), config)


def _folder_parts(config):
    """The folder that holds `train`, and its test folders: `test`, `val`."""
    given = _existing_data_dir(config)
    roots = [path for path in (given, given / config.dataset) if (path / "train").is_dir()]
    if not roots:
        raise UserError(
            f"config key data_dir={config.data_dir} holds no train folder, nor does its "
            f"{config.dataset!r}: expected train/<class>/<image files>"
        )
    root = roots[0]
    tests = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if not tests:
        raise UserError(f"{root} holds no test or val folder: expected test/<class>/<image files>")
    return root, tests


def class_folders(path):
    """The names of the folders in `path`, sorted; hidden ones do not count."""
    folders = (entry.name for entry in os.scandir(path) if entry.is_dir())
    return sorted(name for name in folders if not name.startswith("."))


def folder_source(path, names, config):
    """A `FolderSource` of path/<class>/*, classes in the order of `names`.

    Raises UserError where a class has no image.
    """
    paths, labels = [], []
    for label, name in enumerate(names):
        found = image_files(path / name)
        if not found:
            raise UserError(
                f"{path / name} holds no image ({' '.join(IMAGE_SUFFIXES)}): fill or remove it"
            )
        paths += found
        labels += [label] * len(found)
    return FolderSource(paths, labels, names, load_size(config), config.channels)


def image_files(path):
    """Paths of the image files in a folder, at any depth, sorted."""
    return sorted(
        os.path.join(parent, name)
        for parent, _, files in os.walk(path, followlinks=True)
        for name in files
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    )


def _tfds(config):
    """The test split is `test`, or `validation` where there is none or its labels are hidden."""
    found = tfds_splits(config)
    return Splits(found["train"], found["test" if "test" in found else "validation"])


def tfds_splits(config, multilabel=False):
    """{split: source} of the labelled splits of a TFDS set, as `tfds_source.splits`."""
    place = str(_existing_data_dir(config)) if config.data_dir else None
    return tfds_source.splits(config.dataset, place, load_size(config), config.channels, multilabel)
