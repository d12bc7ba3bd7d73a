#!/usr/bin/env python3
"""Make small versions of image sets for configs/small.py: half the side, few images per class.

  launch/small_data.py --from=DIR --out=SMALL [--train_images=3000] [NAME...]

Reads DIR/NAME.npz (train_images and test_images uint8 [N, H, W(, C)], train_labels, test_labels,
class_names) for those of cifar10, cifar100, tinyimagenet100 and fashion_mnist that exist, or for
the given names. Each pixel becomes the mean of 2 x 2 pixels. SMALL/NAME.npz has the first training
images of each class, equally many; SMALL/whole/NAME.npz, for configs/small_longtail.py, has all of
them. The test set stays complete. In SMALL/held_out/NAME.npz every tenth training image of a class
is a test image instead, so that values can be chosen without the test set.
"""

import pathlib
import sys

import numpy as np
from jobs import make_parser, usage

SMALL_SETS = ("cifar10", "cifar100", "tinyimagenet100", "fashion_mnist")


def halve(images):
    """Return means over 2 x 2 pixels, uint8 [N, H/2, W/2, C], of images [N, H, W(, C)]."""
    images = images[..., None] if images.ndim == 3 else images
    count, height, width, channels = images.shape
    pixels = images.reshape(count, height // 2, 2, width // 2, 2, channels)
    return np.round(pixels.mean((2, 4), dtype=np.float32)).astype(np.uint8)


def first_of_each(labels, count):
    """Return the rows of the first `count` images of each class, ascending; 0: all rows."""
    rows = [np.flatnonzero(labels == label)[: count or None] for label in np.unique(labels)]
    return np.sort(np.concatenate(rows))


def shrink(arrays):
    """Return the arrays of an npz file with images of half the side."""
    images = {key: halve(arrays[key]) for key in ("train_images", "test_images")}
    return images | {key: arrays[key] for key in ("train_labels", "test_labels", "class_names")}


def reduce(arrays, total):
    """Return arrays with `total` of their training images."""
    rows = first_of_each(arrays["train_labels"], total // len(arrays["class_names"]))
    return arrays | {key: arrays[key][rows] for key in ("train_images", "train_labels")}


def hold_out(arrays):
    """Return arrays whose test set is every tenth image of each class of the training set."""
    labels = arrays["train_labels"]
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        held_out[np.flatnonzero(labels == label)[9::10]] = True
    parts = {"train": ~held_out, "test": held_out}
    return arrays | {
        f"{split}_{kind}": arrays[f"train_{kind}"][rows]
        for split, rows in parts.items()
        for kind in ("images", "labels")
    }


def main():
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--from", dest="source", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--train_images", type=int, default=3000)
    args = parser.parse_args()
    names = args.names or [n for n in SMALL_SETS if (args.source / f"{n}.npz").is_file()]
    missing = [name for name in names if not (args.source / f"{name}.npz").is_file()]
    if missing or not names:
        wanted = ", ".join(missing) or "any of " + ", ".join(SMALL_SETS)
        return usage(f"--from={args.source} does not hold {wanted} as .npz")
    if args.out.resolve() == args.source.resolve():
        return usage("--out must be another folder than --from")
    for folder in ("whole", "held_out"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        with np.load(args.source / f"{name}.npz") as stored:
            sides, classes = stored["train_images"].shape[1:3], len(stored["class_names"])
            if any(side % 2 for side in sides) or args.train_images < classes:
                return usage(
                    f"{name} has {classes} classes of {sides[0]}x{sides[1]} pixels: sides must be "
                    "even, and --train_images at least one image per class"
                )
            whole = shrink(stored)
        small = {args.out: reduce(whole, args.train_images), args.out / "whole": whole}
        small[args.out / "held_out"] = hold_out(whole)
        for folder, arrays in small.items():
            np.savez(folder / f"{name}.npz", **arrays)
            shapes = {key: value.shape for key, value in arrays.items()}
            print(folder / f"{name}.npz", shapes, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
