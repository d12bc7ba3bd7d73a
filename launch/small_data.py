#!/usr/bin/env python3
"""Small versions of image sets for configs/small.py: half the side, some images of each class.

  launch/small_data.py --from=DIR --out=SMALL [--train_images=3000] [NAME...]

Reads DIR/NAME.npz (train_images and test_images uint8 [N, H, W(, C)], train_labels, test_labels,
class_names) for cifar10, cifar100, tinyimagenet100 and fashion_mnist, those of them that are there,
or for the names given. Every pixel becomes the mean of 2 x 2. SMALL/NAME.npz has of the training
set the first images of each class, as many of each; SMALL/whole/NAME.npz, for
configs/small_longtail.py, all of them. The test set stays whole.
"""

import argparse
import pathlib
import sys

import numpy as np

NAMES = ("cifar10", "cifar100", "tinyimagenet100", "fashion_mnist")


def halved(images):
    """uint8 [N, H/2, W/2, C]: means over 2 x 2 pixels of images [N, H, W(, C)]."""
    images = images[..., None] if images.ndim == 3 else images
    count, height, width, channels = images.shape
    pixels = images.reshape(count, height // 2, 2, width // 2, 2, channels)
    return np.round(pixels.mean((2, 4), dtype=np.float32)).astype(np.uint8)


def first_of_each(labels, num_classes, total):
    """Rows of the first total/num_classes images of each class, ascending."""
    each = total // num_classes
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:each] for c in range(num_classes)]))


def shrink(arrays):
    """The arrays of an npz with images of half the side."""
    images = {key: halved(arrays[key]) for key in ("train_images", "test_images")}
    kept = ("train_labels", "test_labels", "class_names")
    return images | {key: arrays[key] for key in kept}


def part(arrays, total):
    """Arrays with `total` of their training images."""
    rows = first_of_each(arrays["train_labels"], len(arrays["class_names"]), total)
    return arrays | {key: arrays[key][rows] for key in ("train_images", "train_labels")}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--from", dest="source", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--train_images", type=int, default=3000)
    args = parser.parse_args()
    names = args.names or [n for n in NAMES if (args.source / f"{n}.npz").is_file()]
    missing = [name for name in names if not (args.source / f"{name}.npz").is_file()]
    if missing or not names:
        told = ", ".join(missing) or "any of " + ", ".join(NAMES)
        print(f"hsproto: --from={args.source} does not hold {told} as .npz", file=sys.stderr)
        return 2
    if args.out.resolve() == args.source.resolve():
        print("hsproto: --out must be another folder than --from", file=sys.stderr)
        return 2
    (args.out / "whole").mkdir(parents=True, exist_ok=True)
    for name in names:
        with np.load(args.source / f"{name}.npz") as stored:
            sides, classes = stored["train_images"].shape[1:3], len(stored["class_names"])
            if any(side % 2 for side in sides) or args.train_images < classes:
                told = f"{name} has {classes} classes of {sides[0]}x{sides[1]} pixels"
                print(
                    f"hsproto: {told}: sides must be even, and --train_images at least an image "
                    "a class",
                    file=sys.stderr,
                )
                return 2
            whole = shrink(stored)
        small = {args.out: part(whole, args.train_images), args.out / "whole": whole}
        for folder, arrays in small.items():
            np.savez(folder / f"{name}.npz", **arrays)
            shapes = {key: value.shape for key, value in arrays.items()}
            print(folder / f"{name}.npz", shapes, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
