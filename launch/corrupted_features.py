#!/usr/bin/env python3
"""Features of corrupted test images, for the study `robustness` of launch/results.py.

  python launch/corrupted_features.py --from=FOLDER --out=FEATURES [--sets=cifar100] [--images=1000]

Reads FOLDER/NAME.npz as launch/image_features.py does and takes the first test images, equally many
of each class. They are scaled to --side pixels, then corrupted in the 15 ways of Hendrycks &
Dietterich (2019) at five strengths, as `hsproto corruptions` does; ImageNet-C's strengths are for
224 px, so that here they are stronger. Writes FEATURES/corrupted/NAME/, what is there already is
left: KIND.npy float32 [5, N, 1280], none.npy [1, N, 1280] of the images as they are and labels.npy
[N]. Needs the extras `train`, `photos` and `corruptions`.
"""

import pathlib

import numpy as np
from image_features import Network, parse, resized
from small_data import first_of_each

from hsproto.evaluation import corruptions
from hsproto.evaluation.robustness import CORRUPTIONS, SEVERITIES
from hsproto.runs.files import write_atomically


def make(network: Network, npz: pathlib.Path, out: pathlib.Path, count: int) -> None:
    """Write the features of a set's first `count` test images, corrupted and as they are."""
    with np.load(npz, allow_pickle=False) as data:
        labels = data["test_labels"]
        rows = first_of_each(labels, max(1, count // len(np.unique(labels))))
        images = np.stack([resized(pixels, network.side) for pixels in data["test_images"][rows]])
    out.mkdir(parents=True, exist_ok=True)
    _save(out / "labels.npy", labels[rows])
    for name in ("none", *CORRUPTIONS):
        path = out / f"{name}.npy"
        if not path.exists():
            strengths = range(1, SEVERITIES + 1) if name != "none" else [0]
            _save(path, np.stack([_features(network, images, name, s) for s in strengths]))
            print(f"{path}", flush=True)


def _features(network, images, name, strength):
    if strength:
        images = np.stack(
            [corruptions.corrupt(image, name, strength, row) for row, image in enumerate(images)]
        )
    return network.features(images)


def _save(path, array):
    def write(temporary):
        with open(temporary, "wb") as file:
            np.save(file, array)

    write_atomically(str(path), write)


def main():
    args, names = parse(__doc__, "cifar100", images={"type": int, "default": 1000})
    network = Network(args.side)
    for name in names:
        make(network, args.source / f"{name}.npz", args.out / "corrupted" / name, args.images)


if __name__ == "__main__":
    main()
