"""Images as people have them (files, folders, Pillow's, arrays), read as a run reads its own."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from hsproto.data import decode, features, folder
from hsproto.data.listing import image_files
from hsproto.data.source import DataSpec
from hsproto.errors import UserError

_THREADS = 8  # that decode; each holds one whole picture
_CHANNELS = (1, 3, 4)


def listed(images: Any, spec: DataSpec) -> Sequence[Any]:
    """Return single images, none of them read yet: paths of files, Pillow's pictures, uint8 arrays.

    Args:
        images: paths of files and folders (all image files below one, sorted), Pillow's pictures,
            arrays uint8 [H, W] or [H, W, C] with C of 1, 3 or 4: one path or picture, or a sequence
            of any of these; or one array uint8 [N, H, W] or [N, H, W, C].

    Where the source of `spec` is features: rows float32 [1, 1, D] of files of features, or of
    numbers [N, D].

    Raises:
        UserError: there is no image, a folder cannot be read, or an array is of another type or
            shape.
    """
    if spec.source == "features":
        return _feature_rows(images, spec.channels)
    if isinstance(images, str | os.PathLike | Image.Image):
        images = [images]
    if hasattr(images, "shape"):
        found: Sequence[Any] = _rows(np.asarray(images))
    else:
        try:
            given = list(images)
        except TypeError:
            raise UserError(
                f"images are of type {type(images).__name__}: give paths, Pillow's pictures, or a "
                "uint8 array [N, H, W] or [N, H, W, C]"
            ) from None
        found = [one for image in given for one in _each(image)]
    if not len(found):
        raise UserError("no images: give at least one (a folder without image files holds none)")
    return found


def read(image: Any, spec: DataSpec) -> np.ndarray:
    """Read an image of `listed` as a source of `spec` yields it: uint8 [side, side, channels].

    Raises:
        UnreadableImage: the file is missing or damaged, or the picture cannot be converted.
    """
    if isinstance(image, str | os.PathLike):
        return folder.read_image(image, spec)
    if isinstance(image, np.ndarray):
        pixels = image if image.ndim == 3 else image[..., None]
        if pixels.shape == (spec.side, spec.side, spec.channels):
            return pixels
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    name = getattr(image, "filename", "") or "a Pillow image"
    picture = decode.convert_picture(image, spec.channels, name)
    return decode.center_square(picture, spec.side, spec.resample)


def read_all(images: Sequence[Any], spec: DataSpec) -> list[np.ndarray | decode.UnreadableImage]:
    """Read images of `listed` in threads; what cannot be read is an error in its place."""
    if spec.source == "features":
        return list(images)  # read already

    def attempt(image):
        try:
            return read(image, spec)
        except decode.UnreadableImage as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(attempt, images))


def _of_file(path, dim):
    try:
        return features.load_rows(path, dim).images
    except UserError as error:
        if os.path.isfile(path) and not os.fspath(path).endswith((".npz", ".npy")):
            text = f"{error}; this run takes features, from npz or npy files, and no images"
            raise UserError(text) from error
        raise


def _feature_rows(rows, dim):
    if isinstance(rows, str | os.PathLike):
        return _of_file(rows, dim)
    if isinstance(rows, list | tuple) and rows and isinstance(rows[0], str | os.PathLike):
        return np.concatenate([_of_file(path, dim) for path in rows])
    rows = np.asarray(rows)
    if rows.dtype.kind not in "fiu" or rows[:1].size != dim or not len(rows):
        raise UserError(
            f"features are {rows.dtype} of shape {rows.shape}: the run takes numbers [N, {dim}]"
        )
    rows = np.asarray(rows, np.float32).reshape(-1, 1, 1, dim)
    if not (finite := np.isfinite(rows).all(axis=(1, 2, 3))).all():
        raise UserError(
            f"features: {np.sum(~finite)} of {len(rows)} rows hold values that are not finite, the "
            f"first is row {np.argmin(finite)}"
        )
    return rows


def _each(image):
    if isinstance(image, str | os.PathLike):
        return image_files(image) if os.path.isdir(image) else [image]
    if isinstance(image, Image.Image):
        return [image]
    if hasattr(image, "shape"):
        return [_checked(np.asarray(image), "an image", 2)]
    raise UserError(
        f"an image is of type {type(image).__name__}: give a path, a Pillow picture, or a uint8 "
        "array [H, W] or [H, W, C]"
    )


def _rows(array):
    """The array [N, H, W(, C)], which yields its images."""
    if array.ndim == 3 and array.shape[2] in _CHANNELS:
        raise UserError(
            f"images have the shape {array.shape}, which looks like one color image: give "
            "images[None], of shape [1, H, W, C]"
        )
    return _checked(array, "images", 3)


def _checked(array, what, ndim):
    letters = "N, H, W" if ndim == 3 else "H, W"
    if array.dtype != np.uint8:
        hint = "of 0 to 1: np.round(255 * images).astype(np.uint8)"
        if array.dtype.kind in "iu":
            hint = "of 0 to 255: images.astype(np.uint8)"
        raise UserError(f"{what} of dtype {array.dtype}: pixels are uint8, 0 to 255 ({hint})")
    right = array.ndim == ndim or (array.ndim == ndim + 1 and array.shape[-1] in _CHANNELS)
    if not right or 0 in array.shape[1 if ndim == 3 else 0 :]:
        raise UserError(
            f"{what} of shape {array.shape}: it must be [{letters}] or [{letters}, C], with C of "
            "1, 3 or 4"
        )
    return array
