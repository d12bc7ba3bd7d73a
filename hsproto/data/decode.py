"""Image files as pixels: opened, checked, converted, and cut to squares with Pillow."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
from PIL import Image

from hsproto.data.source import PictureSource
from hsproto.errors import UserError, one_line


def read_picture(
    file: str | os.PathLike[str] | BinaryIO, channels: int, name: str | os.PathLike
) -> Image.Image:
    """Decode the whole image in a file or stream, as gray (`channels` 1) or RGB (3).

    Raises:
        UserError: the file is unreadable, or its pixels are not 8 bits deep. The message has
            `name`.
    """
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":  # Pillow would silently clip these to 8 bits.
                raise ValueError(f"pixels of mode {image.mode}, not of 8 bits")
            return image.convert("RGB" if channels == 3 else "L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(name, error) from error


def center_square(
    image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    """Resize the short side of an image and cut out its center: uint8 [size, size, C].

    With antialiasing, as torchvision's Resize and CenterCrop.
    """
    width, height = image.size
    if (width, height) != (size, size):
        short = min(width, height)
        # torchvision truncates the long side; a 1-pixel difference would shift the crop.
        width, height = size * width // short, size * height // short
        image = image.resize((width, height), resample)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    return _pixels(image)


def resized_crop(image: Image.Image, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """Resize the box (top, left, height, width) of an image: uint8 [size, size, C].

    Bilinear with antialiasing, as torchvision's function of this name.
    """
    top, left, height, width = box
    # Cut first: resize(box=...) would let pixels outside the box into its border.
    image = image.crop((left, top, left + width, top + height))
    return _pixels(image.resize((size, size), Image.Resampling.BILINEAR))


def check_headers(paths: Iterable[str]) -> None:
    """Raise UserError for a file whose header, or a PNG's check sum, is broken."""
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(_check_header, paths):
            pass


def _pixels(image):
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _check_header(path):
    try:
        with Image.open(path) as image:
            image.verify()
    except Exception as error:  # Pillow's verify raises whatever the format's reader does.
        raise _unreadable(path, error) from error


def _unreadable(name, error):
    return UserError(f"unreadable image {name} ({one_line(error)}): repair or remove it")


class EncodedSource(PictureSource):
    """Pictures that are stored encoded and decoded on access, as squares of side `_size`."""

    _size: int

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        image, label = self.picture(i)
        return center_square(image, self._size), label
