"""Sources on disk: folders of image files, one per class."""

import hashlib
import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from hsproto.data import decode, file_identity, subsets
from hsproto.data.listing import class_folders, image_files, in_words
from hsproto.data.source import DataSpec, Source, Splits
from hsproto.errors import UserError, visible
from hsproto.parallel.processes import log_main

# Reading the header of every file takes about 0.1 ms each on a local disk. Above this many files
# (ImageNet has 1.28 million) `FolderSource.check` reads one file per class.
MAX_CHECKED_FILES = 200_000

# Names of the folder of test images, in the order in which they are taken.
_TESTS = ("test", "val", "valid", "validation")


def read_image(path: str | os.PathLike[str], spec: DataSpec) -> np.ndarray:
    """Read an image file as a source of `spec` yields it: uint8 [side, side, channels].

    As `decode.read_picture`, the short side resized to `spec.side` (with antialiasing, as
    torchvision's Resize), the center square cut out.

    Raises:
        UnreadableImage: the file is missing or unreadable; with its path.
    """
    picture = decode.read_picture(path, spec.channels, path)
    return decode.center_square(picture, spec.side, spec.resample)


class FolderSource(decode.EncodedSource):
    """Image files, read as `spec` says."""

    def __init__(
        self,
        paths: Sequence[str],
        labels: np.ndarray | Sequence[int],
        class_names: Sequence[str],
        spec: DataSpec,
    ):
        self.paths = paths
        self.labels = np.asarray(labels, np.int32)
        self.class_names = tuple(class_names)
        self._spec = spec

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, i: int) -> tuple[Image.Image, int]:
        path = self.paths[i]
        return decode.read_picture(path, self._spec.channels, path), int(self.labels[i])

    def check(self, rows: np.ndarray | None = None) -> None:
        """Read the header of every file, and the check sums that PNG files carry.

        Only of the first file of each class where there are more than MAX_CHECKED_FILES. A damaged
        body shows up when the image is decoded. Says how many files hold more than one picture.

        Raises:
            UnreadableImage: some images cannot be used; with their paths.
        """
        rows = np.arange(len(self)) if rows is None else rows
        if len(rows) > MAX_CHECKED_FILES:
            rows = rows[np.unique(self.labels[rows], return_index=True)[1]]
        if several := decode.check_headers([self.paths[row] for row in rows]):
            _say(
                f"{len(several)} files hold several frames or pages, of which the first is used, "
                f"e.g. {several[0]}"
            )

    def identity(self, rows: np.ndarray) -> Iterable[bytes]:
        return file_identity.identity([self.paths[row] for row in rows])


def load_folder(spec: DataSpec) -> Splits:
    """Read train/<class>/* and {test,val,valid,validation}/<class>/* in data_dir or its <dataset>.

    Where there is no such split, `validation_share` of the images of each class, chosen by their
    names, is the test set. Classes are those of the training set, sorted by name. See
    `hsproto.data.listing` for the files that count.
    """
    root, tests = _layout(spec)
    train = root / "train" if (root / "train").is_dir() else root
    names = class_folders(train)
    if not names:
        raise UserError(f"{train} holds no class folder: expected <class>/<image files>")
    if tests and spec.validation_share:
        raise UserError(
            f"config key validation_share={spec.validation_share} splits a folder without a test "
            f"set, but there is {tests[0]}: set validation_share=0"
        )
    if not tests and not spec.validation_share:
        raise UserError(
            f"{train} comes without a folder of test images by class ({', '.join(_TESTS)}): add "
            "one, or set validation_share, e.g. validation_share=0.1"
        )
    skipped = Counter()
    trained = folder_source(train, names, spec, skipped)
    if tests:
        held_out = _test_source(tests[0], names, spec, skipped)
    else:
        trained, held_out = _split(trained, train, spec)
    if skipped:
        _say(f"{root}: files that are no images were skipped: {in_words(skipped)}")
    present = np.bincount(held_out.labels, minlength=len(names))
    missing = [name for name, count in zip(names, present, strict=True) if not count]
    if missing:
        _say(
            f"{tests[0] if tests else 'the test set'} has no image of {len(missing)} of "
            f"{len(names)} classes: {_some(missing)}"
        )
    return Splits(trained, held_out)


def load_validation(spec: DataSpec) -> Source | None:
    """Read the second folder of test images where there are two, e.g. `val` beside `test`."""
    root, tests = _layout(spec)
    if len(tests) < 2:
        return None
    return _test_source(tests[1], class_folders(root / "train"), spec)


def _layout(spec):
    """Return the folder of the data set, and the folders of test images by class in it."""
    data_dir = spec.existing_data_dir()
    places = (data_dir, data_dir / spec.dataset)
    root = next((path for path in places if (path / "train").is_dir()), None)
    if root is None:
        return _without_train(spec, places), []
    classes = set(class_folders(root / "train"))
    found = [root / name for name in _TESTS if (root / name).is_dir()]
    tests = [path for path in found if classes.intersection(class_folders(path))]
    for path in found:
        if path not in tests:
            _say(f"{path} holds no folder of a class of {root / 'train'}: it is left alone")
    return root, tests


def _without_train(spec, places):
    """Return the folder that holds class folders without a split."""
    root = next((path for path in reversed(places) if path.is_dir() and class_folders(path)), None)
    if root is None or set(class_folders(root)).intersection(_TESTS) or not spec.validation_share:
        raise UserError(
            f"config key data_dir={spec.data_dir} holds no train folder, nor does its "
            f"{spec.dataset!r}: expected train/<class>/<image files>, or <class>/<image files> and "
            "the key validation_share, e.g. validation_share=0.1"
        )
    return root


def _test_source(path, names, spec, skipped=None):
    present, known = class_folders(path), set(names)
    if foreign := [name for name in present if name not in known]:
        raise UserError(
            f"{path} holds classes that the training set lacks: {_some(foreign)}; add images of "
            "them to the training set, or remove them"
        )
    return folder_source(path, names, spec, skipped, may_lack=True)


def _split(source, root, spec):
    """Split a source into training and test images, the same share of each class.

    A function of the seed and of the files' names below the folder: the same wherever it lies.
    """

    def rank(row):
        name = os.path.relpath(source.paths[row], root)
        return hashlib.sha256(f"{spec.subset_seed}/".encode() + os.fsencode(name)).digest()

    held_out = []
    for _, members in subsets.rows_by_class(source.labels):
        rows = sorted(members, key=rank)
        # One at least of each class, as long as one is left to train on.
        count = min(max(1, round(spec.validation_share * len(rows))), len(rows) - 1)
        held_out += rows[:count]
    is_held_out = np.isin(np.arange(len(source)), held_out)
    return tuple(
        FolderSource(
            [source.paths[row] for row in rows],
            source.labels[rows],
            source.class_names,
            spec,
        )
        for rows in (np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out))
    )


def _say(text):
    log_main(visible(text))  # one line, whatever is in a name


def _some(names):
    return f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"


def folder_source(
    path: pathlib.Path,
    names: Sequence[str],
    spec: DataSpec,
    skipped: Counter | None = None,
    may_lack: bool = False,
) -> FolderSource:
    """Return a `FolderSource` of path/<class>/*, classes in the order of `names`.

    Args:
        skipped: counts by suffix the files that are no images.
        may_lack: whether a class may have no image, or no folder.

    Raises:
        UserError: a class has no image.
    """
    paths, labels = [], []
    for label, name in enumerate(names):
        missing = may_lack and not (path / name).is_dir()
        files = [] if missing else image_files(path / name, skipped)
        if not files and not may_lack:
            raise UserError(
                f"{path / name} holds no image, a file that Pillow reads, e.g. .jpg or .png: fill "
                "or remove it"
            )
        paths += files
        labels += [label] * len(files)
    return FolderSource(paths, labels, names, spec)
