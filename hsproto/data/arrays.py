"""Sources in memory: images and labels as arrays, and npz files of them."""

from collections.abc import Iterable, Sequence

import numpy as np

from hsproto import npz
from hsproto.data.source import DataSpec, Source, Splits
from hsproto.errors import UserError


class ArraySource(Source):
    """Images and labels in memory: uint8 [N, H, W, C] and integers [N]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]):
        self.images = images
        self.labels = np.asarray(labels, np.int32)
        self.class_names = tuple(class_names)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.images[i], int(self.labels[i])

    def identity(self, rows: np.ndarray) -> Iterable[bytes]:
        yield str(self.images.shape[1:]).encode()
        for start in range(0, len(rows), 1000):  # a block at a time, to need little memory
            yield self.images[rows[start : start + 1000]].tobytes()


def load_arrays(spec: DataSpec) -> Splits:
    """Read an npz of {train,test}_{images,labels} and class_names; data_dir is it or its folder."""
    path = spec.existing_data_dir()
    if path.is_dir():
        path = path / f"{spec.dataset}.npz"
        if not path.exists():
            raise UserError(
                f"config key data_dir={spec.data_dir} holds no {path.name}: put it there, or "
                "set data_dir to the npz file itself"
            )
    keys = ("train_images", "train_labels", "test_images", "test_labels", "class_names")
    *arrays, names = npz.read(path, keys).values()
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise UserError(
            f"class_names in {path} must be a list of strings; "
            f"got {names.dtype} of shape {names.shape}"
        )
    names = _as_text(names, path)
    return Splits(
        array_source(*arrays[:2], names, f"{path}: train", spec),
        array_source(*arrays[2:], names, f"{path}: test", spec),
    )


def _as_text(names, path):
    try:
        return [name.decode() if isinstance(name, bytes) else name for name in names.tolist()]
    except ValueError as error:
        raise UserError(f"class_names in {path} are not text in UTF-8 ({error})") from error


def array_source(
    images: np.ndarray, labels: np.ndarray, names: Sequence[str], place: str, spec: DataSpec
) -> ArraySource:
    """Return an `ArraySource` of images uint8 [N, H, W(, C)] and labels [N], which index `names`.

    Raises:
        UserError: type, shape, channels, size or a label is not as `spec` and `names` require. The
            message names `place`.
    """
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise UserError(
            f"{place} images must be uint8 [N, H, W] or [N, H, W, C]; "
            f"got {images.dtype} of shape {images.shape}"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] not in (1, 3) or 0 in images.shape[1:3]:
        raise UserError(
            f"{place} images must have 1 or 3 channels and at least one pixel; "
            f"got shape {images.shape}"
        )
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
    if spec.channels not in (0, channels):
        raise UserError(
            f"config key channels={spec.channels}, but {place} images have {channels}: "
            f"set channels={channels}"
        )
    if spec.side and (height, width) != (spec.side, spec.side):
        option = "load_size" if spec.load_size else "image_size"
        raise UserError(
            f"config key {option}={spec.side}, but {place} images are {height}x{width}: "
            + (f"set {option}={height}" if height == width else "they must be square")
        )
    return ArraySource(images, labels, names)
