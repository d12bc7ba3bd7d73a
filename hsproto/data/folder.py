"""Sources on disk: folders of image files, one per class."""

import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from hsproto.data import decode, file_identity
from hsproto.data.source import DataSpec, Source, Splits
from hsproto.errors import UserError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# Reading the header of every file takes about 0.1 ms each on a local disk. Above this many files
# (ImageNet has 1.28 million) `FolderSource.check` reads one file per class.
MAX_CHECKED_FILES = 200_000


def read_image(path: str | os.PathLike[str], spec: DataSpec) -> np.ndarray:
    """Read an image file as a source of `spec` yields it: uint8 [side, side, channels].

    Converted to gray or RGB (`channels` 1 or 3), the short side resized to `spec.side` (bilinear
    with antialiasing, as torchvision's Resize), the center square cut out.

    Raises:
        UserError: the image is unreadable; with its path.
    """
    return decode.center_square(decode.read_picture(path, spec.channels, path), spec.side)


class FolderSource(decode.EncodedSource):
    """Image files, as squares of side `size`."""

    def __init__(
        self,
        paths: Sequence[str],
        labels: np.ndarray | Sequence[int],
        class_names: Sequence[str],
        size: int,
        channels: int,
    ):
        self.paths = paths
        self.labels = np.asarray(labels, np.int32)
        self.class_names = tuple(class_names)
        self._size, self._channels = size, channels

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, i: int) -> tuple[Image.Image, int]:
        path = self.paths[i]
        return decode.read_picture(path, self._channels, path), int(self.labels[i])

    def check(self) -> None:
        """Read the header of every file, and the check sums that PNG files carry.

        Only of the first file of each class where there are more than MAX_CHECKED_FILES. A damaged
        body shows up when the image is decoded.

        Raises:
            UserError: an image is unreadable; with its path.
        """
        paths = self.paths
        if len(paths) > MAX_CHECKED_FILES:
            paths = [paths[i] for i in np.unique(self.labels, return_index=True)[1]]
        decode.check_headers(paths)

    def identity(self, rows: np.ndarray) -> Iterable[bytes]:
        return file_identity.identity([self.paths[row] for row in rows])


def load_folder(spec: DataSpec) -> Splits:
    """Read train/<class>/* and {test,val}/<class>/* in data_dir or data_dir/<dataset>.

    Classes are sorted by name. Files count as images by their suffix, at any depth below the class
    folder; hidden ones do not count.
    """
    train, (test, *_) = _split_folders(spec)
    names = class_folders(train)
    if not names:
        raise UserError(f"{train} holds no class folder: expected <class>/<image files>")
    different = sorted(set(names) ^ set(class_folders(test)))
    if different:
        raise UserError(
            f"{train} and {test} must have the same classes; only one of them has "
            f"{', '.join(different[:3])}{' ...' if len(different) > 3 else ''}"
        )
    return Splits(folder_source(train, names, spec), folder_source(test, names, spec))


def load_validation(spec: DataSpec) -> Source | None:
    """Read `val` where a folder has it beside `test`, else return None."""
    train, tests = _split_folders(spec)
    return folder_source(tests[1], class_folders(train), spec) if len(tests) > 1 else None


def _split_folders(spec):
    """The folder `train`, and those of `test` and `val` that exist."""
    data_dir = spec.existing_data_dir()
    roots = [path for path in (data_dir, data_dir / spec.dataset) if (path / "train").is_dir()]
    if not roots:
        raise UserError(
            f"config key data_dir={spec.data_dir} holds no train folder, nor does its "
            f"{spec.dataset!r}: expected train/<class>/<image files>"
        )
    root = roots[0]
    tests = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if not tests:
        raise UserError(f"{root} holds no test or val folder: expected test/<class>/<image files>")
    return root / "train", tests


def class_folders(path: str | os.PathLike[str]) -> list[str]:
    """Return the sorted names of the folders in `path`; hidden ones do not count."""
    folders = (entry.name for entry in os.scandir(path) if entry.is_dir())
    return sorted(name for name in folders if not name.startswith("."))


def folder_source(path: pathlib.Path, names: Sequence[str], spec: DataSpec) -> FolderSource:
    """Return a `FolderSource` of path/<class>/*, classes in the order of `names`.

    Raises:
        UserError: a class has no image.
    """
    paths, labels = [], []
    for label, name in enumerate(names):
        files = image_files(path / name)
        if not files:
            raise UserError(
                f"{path / name} holds no image ({' '.join(IMAGE_SUFFIXES)}): fill or remove it"
            )
        paths += files
        labels += [label] * len(files)
    return FolderSource(paths, labels, names, spec.side, spec.channels)


def image_files(path: str | os.PathLike[str]) -> list[str]:
    """Return the sorted paths of the image files in a folder, at any depth."""
    return sorted(
        os.path.join(parent, name)
        for parent, _, files in os.walk(path, followlinks=True)
        for name in files
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    )
