"""Pictures of matrices in two colors, through which the page shows at 0."""

import numpy as np
from PIL import Image

POSITIVE, NEGATIVE = (214, 85, 52), (52, 116, 214)  # orange and blue, seen on light and on dark
_SHADES = 24


def picture(values: np.ndarray) -> Image.Image:
    """Return values [H, W] in -1..1 as a picture, a pixel each; only 0 itself is clear."""
    away = np.ceil(np.abs(values).clip(max=1) * _SHADES - 1e-9).astype(int)
    shade = np.where(values > 0, away, -away)
    image = Image.fromarray((shade + _SHADES).astype(np.uint8)).convert("P")
    sides = [NEGATIVE] * _SHADES + [POSITIVE] * (_SHADES + 1)
    image.putpalette([value for color in sides for value in color])
    alphas = [round(255 * abs(s) / _SHADES) for s in range(-_SHADES, _SHADES + 1)]
    image.info["transparency"] = bytes(alphas)
    return image
