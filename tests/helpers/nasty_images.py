"""A small folder of images as people have them: odd names, and every kind of picture."""

import os

import numpy as np
from PIL import Image

CLASSES = ("a$b$c", r"\$x]]>", "new\nline", "emoji 🐜", os.fsdecode(b"not utf-8 \xff"), "plain")


def _colors(seed, shape=(12, 16)):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def _rotated(seed, path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_colors(seed)).save(f"{path}.jpg", exif=exif)


def _transparent(seed, path):
    pixels = np.dstack([_colors(seed), _colors(seed + 100)[..., :1]])
    Image.fromarray(pixels).save(f"{path}.png")


def _palette(seed, path):
    Image.fromarray(_colors(seed)).quantize(8).save(f"{path}.PNG", transparency=0)


def _deep(seed, path):
    Image.fromarray(_colors(seed)[..., 0].astype(np.uint16) * 257).save(f"{path}.tiff")


def _animated(seed, path):
    frames = [Image.fromarray(_colors(seed + i)) for i in range(2)]
    frames[0].save(f"{path}.gif", save_all=True, append_images=frames[1:])


def _icon(seed, path):
    Image.fromarray(_colors(seed, (16, 16))).save(f"{path}.ico")


KINDS = (_rotated, _transparent, _palette, _deep, _animated, _icon)


def write(root):
    """Write train/<class>/* and valid/<class>/*, of which the last class is missing; return root.

    Six images per class, one of each kind, whose names are as odd as the classes'.
    """
    for split, classes in (("train", CLASSES), ("valid", CLASSES[:-1])):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i, save in enumerate(KINDS):
                save(10 * label + i + (1000 if split == "valid" else 0), folder / CLASSES[i])
            (folder / "._0.jpg").write_bytes(b"no image")
            (folder / ".ipynb_checkpoints").mkdir()
            (folder / ".ipynb_checkpoints" / "0-checkpoint.png").write_bytes(b"no image")
            (folder / "Thumbs.db").write_bytes(b"no image")
            (folder / "notes.txt").write_text("no image")
            (folder / "itself").symlink_to(folder)
    return root
