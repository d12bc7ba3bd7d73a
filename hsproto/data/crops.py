"""Random resized crops on the host, cut out of whole pictures while they are read.

As torchvision's RandomResizedCrop. The randomness of a crop is a function of the seed, the step,
the place in the global batch and the view: it is the same in any thread, worker or process, and
after a resume.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hsproto import config as config_lib
from hsproto.data import decode
from hsproto.data.source import PictureSource, resampling


class RandomCrops:
    """Random crops of the pictures of a source, as the config keys of the crop say.

    Attributes:
        shape: of an image, (V, S, S, C): one crop for each of the V views that the loss sees, S =
            config.image_size.
    """

    def __init__(self, source: PictureSource, config: Any):
        size = config.image_size
        self.shape = (config_lib.num_views(config), size, size, config.channels)
        self._source, self._seed = source, config.seed
        self._resample = resampling(config.interpolation)
        self._scale, self._ratio = tuple(config.crop_scale), tuple(config.crop_ratio)

    def read(self, row: int, step: int, place: int) -> tuple[np.ndarray, int]:
        """Return (image uint8 [V, S, S, C], label) of a row of the source.

        All views are cut out of one decoded picture. `place` is that of the row in the batch of all
        devices.
        """
        picture, label = self._source.picture(row)
        width, height = picture.size
        image = np.empty(self.shape, np.uint8)
        for view in range(len(image)):
            numbers = uniforms(self._seed, step, place, view)
            box = crop_box(numbers, (height, width), self._scale, self._ratio)
            image[view] = decode.resized_crop(picture, box, self.shape[1], self._resample)
        return image, label


def uniforms(seed: int, step: int, place: int, view: int) -> list[float]:
    """Draw the 22 numbers in 0..1 of one crop."""
    # Philox is a block cipher of a counter, so that a place in the run is a place in its sequence.
    philox = np.random.Philox(key=seed, counter=[0, view, place, step])
    return np.random.Generator(philox).random(22).tolist()


def crop_box(
    uniforms: Sequence[float],
    shape: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Return the box (top, left, height, width) as `augment.crop_box`, on the host."""
    height, width = shape
    for share, exponent in zip(uniforms[:10], uniforms[10:20], strict=True):
        area = height * width * (scale[0] + share * (scale[1] - scale[0]))
        aspect = ratio[0] * (ratio[1] / ratio[0]) ** exponent
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(uniforms[20] * (height - box_height + 1))
            left = int(uniforms[21] * (width - box_width + 1))
            return top, left, box_height, box_width
    box_height = min(height, max(1, round(width / ratio[0])))
    box_width = min(width, max(1, round(height * ratio[1])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
