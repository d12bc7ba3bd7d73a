"""Image files as pixels: opened, checked, converted, and cut to squares with Pillow."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from hsproto.errors import UserError, one_line


def picture(file, channels, name):
    """The whole image in a file or stream, decoded, as a Pillow image: grey or RGB.

    `channels` is 1 or 3. Raises UserError with `name` where the file is unreadable, or its pixels
    are not of 8 bits.
    """
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":  # Pillow would clip these to 8 bits without a word.
                raise ValueError(f"pixels of mode {image.mode}, not of 8 bits")
            return image.convert("RGB" if channels == 3 else "L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(name, error) from error


def centre_square(image, size, resample=Image.Resampling.BILINEAR):
    """uint8 [size, size, C] of a Pillow image: its short side resized, the centre cut out.

    Bilinear, unless told otherwise, with antialiasing, as torchvision's Resize and CenterCrop.
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


def cut_out(image, box, size):
    """uint8 [size, size, C]: the box (top, left, height, width) of a Pillow image, resized.

    Bilinear with antialiasing, as torchvision's resized_crop.
    """
    top, left, height, width = box
    # Cut first: resize(box=...) would let pixels outside the box into its border.
    image = image.crop((left, top, left + width, top + height))
    return _pixels(image.resize((size, size), Image.Resampling.BILINEAR))


def check_headers(paths):
    """Raises UserError with the path of a file whose header, or a PNG's check sum, is broken."""
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


class EncodedSource:
    """Pictures that are kept encoded and decoded when asked for: `picture(i)` gives them whole."""

    def __getitem__(self, i):
        image, label = self.picture(i)
        return centre_square(image, self._size), label
