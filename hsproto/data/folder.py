"""Sources on disk: folders of image files, one per class."""

import os

import numpy as np

from hsproto.data import decode
from hsproto.data.source import Splits, existing_data_dir, load_size
from hsproto.errors import UserError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# Reading the header of every file takes about 0.1 ms each on a local disk. Above this many files
# (ImageNet has 1.28 million) `FolderSource.check` looks at one file of each class.
MAX_CHECKED_FILES = 200_000


def read_image(path, config):
    """The image file `path` as the sources of `config` give it: uint8 [size, size, channels].

    Converted to grey or RGB (`channels` 1 or 3), the short side resized to `load_size` (bilinear
    with antialiasing, as torchvision's Resize), the centre square cut out. Raises UserError with
    the path of an unreadable image.
    """
    return decode.centre_square(decode.picture(path, config.channels, path), load_size(config))


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


def load_folder(config):
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
    given = existing_data_dir(config)
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
