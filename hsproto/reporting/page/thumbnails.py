"""Small pictures of the test images of snapshots, many in one: what a pointer over a point shows.

Runs on the same data look at the same images, which then stand in the page once.
"""

import hashlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from hsproto.reporting.page import sphere as page_sphere
from hsproto.runs.snapshots import SnapshotSeries

MOST_IMAGES = 500  # of a run
LARGEST_SIDE = 32  # pixels
MOST_PIXELS = 250_000  # of all runs of a page together
_LARGEST_PNG = 40_000  # characters; what is larger becomes a JPEG


def has_pictures(series: SnapshotSeries) -> bool:
    """Return whether a run's test images are pictures; those of features are a gray pixel each."""
    return series.points["images"].shape[1:3] != (1, 1)


def sprite_id(series: SnapshotSeries) -> str | None:
    """Return what runs with the same test images have in common; None of features."""
    if not has_pictures(series):
        return None
    images = series.points["images"]
    return hashlib.sha256(str(images.shape).encode() + images.tobytes()).hexdigest()[:16]


def sprites(all_series: Iterable[SnapshotSeries]) -> dict[str, dict[str, Any]]:
    """Return {sprite_id: sprite} of the test images of runs.

    A sprite is a dict: picture (a data URI), side of a tile in pixels, columns, rows, and tiles:
    the tile of each image, -1 of one that has none, as of more than MOST_IMAGES some are chosen.
    """
    images = {sprite_id(s): s.points["images"] for s in all_series if has_pictures(s)}
    total = sum(min(len(each), MOST_IMAGES) for each in images.values())
    side = min(LARGEST_SIDE, int(math.sqrt(MOST_PIXELS / max(total, 1))))
    return {key: _sprite(each, max(side, 8)) for key, each in images.items()}


def _sprite(images, side):
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES)).astype(int))
    side = min(side, max(images.shape[1:3]))
    columns = math.ceil(math.sqrt(len(chosen)))
    mode = "L" if images.shape[-1] == 1 else "RGB"
    sheet = Image.new(mode, (columns * side, math.ceil(len(chosen) / columns) * side))
    tiles = np.full(len(images), -1)
    for tile, place in enumerate(chosen):
        picture = page_sphere.picture_of(images[place], side)
        row, column = divmod(tile, columns)
        left, top = (side - picture.width) // 2, (side - picture.height) // 2
        sheet.paste(picture, (column * side + left, row * side + top))
        tiles[place] = tile
    exact = page_sphere.data_uri(sheet)
    return {
        "picture": exact if len(exact) <= _LARGEST_PNG else page_sphere.data_uri(sheet, "JPEG"),
        "side": side,
        "columns": columns,
        "rows": math.ceil(len(chosen) / columns),
        "tiles": tiles.tolist(),
    }
