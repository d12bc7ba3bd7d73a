"""Image files as pixels: opened, checked, turned upright, converted, cut to squares."""

import functools
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from hsproto.data.source import DataSpec, PictureSource, Source
from hsproto.errors import UserError, one_line

# What Pillow knows but does not read as a picture by itself: EPS runs Ghostscript; of BUFR, GRIB,
# HDF5, MPEG and WMF it reads no pixels; FITS holds measurements, whose black and white are unknown.
_LEFT_OUT = ("EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF", "FITS")

_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")  # 16 bits without a sign
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", *_DEEP)

# How a picture is turned upright that was stored in an EXIF orientation; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# The largest picture that `center_square` makes before it cuts, 200 MB of RGB: no picture of usual
# proportions reaches it.
_MAX_RESIZED = 2**26
_MAX_NAMED = 20
_MISSING = "no such file"
_BLOCK = 10_000  # rows that wait for a thread at a time


class UnreadableImage(UserError):
    """Images that cannot be used.

    Attributes:
        problems: (name, reason) of each.
    """

    def __init__(self, *problems: tuple[str, str]):
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        if len(self.problems) > 1:
            named = ", ".join(f"{name} ({reason})" for name, reason in self.problems[:_MAX_NAMED])
            more = len(self.problems) - _MAX_NAMED
            return (
                f"{len(self.problems)} unreadable images: {named}"
                f"{f' and {more} more' if more > 0 else ''}: repair or remove them, or set "
                "skip_unreadable=true to train without"
            )
        ((name, reason),) = self.problems
        if reason == _MISSING:
            return f"{_MISSING}: {name}"
        return f"unreadable image {name} ({reason}): repair or remove it"


def raise_unreadable(errors: Sequence[UnreadableImage]) -> None:
    """Raise one error for all that were found, if any."""
    if errors:
        raise UnreadableImage(*(problem for error in errors for problem in error.problems))


@functools.cache
def formats() -> tuple[str, ...]:
    """Return the formats that are read, the most common first."""
    Image.preinit()
    Image.init()
    return tuple(name for name in Image.ID if name not in _LEFT_OUT)


@functools.cache
def suffixes() -> tuple[str, ...]:
    """Return the suffixes, in lower case, of the files that the installed Pillow reads."""
    known = {*formats(), "MPO"}  # MPO, of several JPEGs, is opened as JPEG
    return tuple(sorted(s for s, name in Image.registered_extensions().items() if name in known))


def read_picture(
    file: str | os.PathLike[str] | BinaryIO, channels: int, name: str | os.PathLike
) -> Image.Image:
    """Decode the whole image in a file or stream, as gray (`channels` 1) or RGB (3).

    Of several frames or pages the first. Turned upright as EXIF says, transparency on white, 16-bit
    gray divided by 257.

    Raises:
        UnreadableImage: the file is missing or damaged, or there is no rule that makes 8 bits of
            its pixels. The message has `name`.
    """
    try:
        with _open(file) as image:
            return _converted(image, channels)
    except Exception as error:  # Pillow raises whatever the reader of a damaged format does.
        raise _unreadable(name, error) from error


def convert_picture(image: Image.Image, channels: int, name: str) -> Image.Image:
    """Convert a picture that Pillow holds, as `read_picture` converts the one in a file."""
    try:
        _check_mode(image)
        return _converted(image, channels)
    except Exception as error:  # a picture may be decoded here for the first time
        raise _unreadable(name, error) from error


def _converted(image, channels):
    image.load()
    turn = _TURNS.get(_orientation(image))
    image = _on_white(image).convert("RGB" if channels == 3 else "L")
    return image.transpose(turn) if turn is not None else image


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
        left, top = round((width - size) / 2), round((height - size) / 2)
        box = (left, top, left + size, top + size)
        if width * height > _MAX_RESIZED:
            # The same square, of a very long picture, without what is cut off.
            across, down = image.width / width, image.height / height
            box = (left * across, top * down, (left + size) * across, (top + size) * down)
            image = image.resize((size, size), resample, box)
        else:
            image = image.resize((width, height), resample).crop(box)
    return _pixels(image)


def resized_crop(
    image: Image.Image,
    box: tuple[int, int, int, int],
    size: int,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Resize the box (top, left, height, width) of an image: uint8 [size, size, C].

    With antialiasing, as torchvision's function of this name.
    """
    top, left, height, width = box
    # Cut first: resize(box=...) would let pixels outside the box into its border.
    image = image.crop((left, top, left + width, top + height))
    return _pixels(image.resize((size, size), resample))


def check_headers(paths: Sequence[str]) -> list[str]:
    """Check the header of every file, and a PNG's check sums.

    Returns:
        The files that hold more than one picture.

    Raises:
        UnreadableImage: for all files that are not as they should be.
    """
    found = _map(_has_several, paths)
    raise_unreadable([error for _, error in found if error])
    return [path for path, (several, _) in zip(paths, found, strict=True) if several]


def find_unreadable(source: Source) -> dict[int, UnreadableImage]:
    """Decode every picture of a source once; return the rows that fail, and why."""
    if not isinstance(source, PictureSource):
        return {}
    # Not the picture itself, which would be kept.
    found = _map(lambda row: bool(source.picture(row)), range(len(source)))
    return {row: error for row, (_, error) in enumerate(found) if error}


def _map(call, items):
    """Return (result, None) or (None, error) of `call` for each item, computed in threads."""

    def caught(item):
        try:
            return call(item), None
        except UnreadableImage as error:
            return None, error

    found = []
    with ThreadPoolExecutor(16) as pool:
        for start in range(0, len(items), _BLOCK):
            found += pool.map(caught, items[start : start + _BLOCK])
    return found


def _open(file):
    """Open an image of a mode that is read. Only a regular file is opened: others may block."""
    if isinstance(file, str | os.PathLike) and not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError("not a regular file")
    image = Image.open(file, formats=formats())
    try:
        _check_mode(image)
    except ValueError:
        image.close()
        raise
    return image


def _check_mode(image):
    # Pillow's PGM of more than 8 bits is scaled to 16, but has the mode of 32.
    if image.mode not in _MODES and (image.mode, image.format) != ("I", "PPM"):
        raise ValueError(
            f"pixels of mode {image.mode}: save 8 bits per channel, or gray of 16 without a sign"
        )


def _orientation(image):
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF data, which say nothing about the pixels
        return None


def _on_white(image):
    """Return an image of 8 bits per channel without transparency."""
    if image.mode in _DEEP or image.mode == "I":
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _eight_bits(image):
    pixels = np.asarray(image).astype(np.uint32)
    gray = Image.fromarray(((pixels + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return gray
    alpha = Image.fromarray(np.where(pixels == transparent, 0, 255).astype(np.uint8))
    return Image.merge("LA", (gray, alpha))


def _pixels(image):
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _has_several(path):
    try:
        with _open(path) as image:
            several = getattr(image, "is_animated", False)
            image.verify()
    except Exception as error:  # as in `read_picture`
        raise _unreadable(path, error) from error
    return several


def _unreadable(name, error):
    if isinstance(error, FileNotFoundError):
        return UnreadableImage((os.fspath(name), _MISSING))
    reason = getattr(error, "strerror", None) or one_line(error)
    return UnreadableImage((os.fspath(name), reason))


class EncodedSource(PictureSource):
    """Pictures that are stored encoded and decoded on access, as squares as `_spec` says."""

    _spec: DataSpec

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self._spec.side, self._spec.side, self._spec.channels

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        image, label = self.picture(i)
        return center_square(image, self._spec.side, self._spec.resample), label
