#!/usr/bin/env python3
"""Features of image sets by the packaged EfficientNet-Lite0, which was trained on ImageNet.

  python launch/image_features.py --from=FOLDER --out=FOLDER [--sets=cifar100,cifar10] [--side=96]

FOLDER/NAME.npz holds train_images, train_labels, test_images, test_labels and class_names. Images
are resized to --side pixels with bicubic interpolation, grey ones get three channels. Writes
OUT/NAME/ with features.npy [N, 1280], labels.npy, test_features.npy, test_labels.npy and
class_names.npy, as `hsproto head` reads them, and made.json with what they were made from. Sets
that are there already are left as they are. Needs the extras `train` and `photos`; some 200
images/s per core.
"""

import argparse
import json
import pathlib
import shutil
import time

import jax
import numpy as np
from PIL import Image
from small_data import first_of_each

from hsproto import cli
from hsproto.data import loader
from hsproto.data.arrays import ArraySource
from hsproto.models import pretrained
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import frozen
from hsproto.training import state as state_lib

SIDE = 96
_PART = 5000  # images at a time in memory at the larger side


class Network:
    """EfficientNet-Lite0 as it came, without what would be trained on it."""

    def __init__(self, side: int):
        config = cli.load_config("photos")
        weights = pretrained.load(config.init_from)
        prepared = pretrained.preprocessing(weights)
        config.update(num_classes=2, num_examples=1, image_size=side)
        config.update(mean=prepared.mean, std=prepared.std)
        self.mesh, self.config, self.side = mesh_lib.make_mesh(), config, side
        state = state_lib.create(config, self.mesh)
        state = state_lib.with_backbone(state, pretrained.fill(config, weights, state.variables))
        self.variables = state.variables

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return float32 [N, 1280] of images uint8 [N, H, W(, C)]."""
        parts = [self._part(images[i : i + _PART]) for i in range(0, len(images), _PART)]
        return np.concatenate(parts)

    def _part(self, images):
        images = np.stack([resized(pixels, self.side) for pixels in images])
        source = ArraySource(images, np.zeros(len(images), np.int64), np.array(["0", "1"]))
        opened = loader.open_loader(source, self.config, self.mesh)
        return frozen.compute_features(self.config, self.variables, opened, self.mesh)[0]


def resized(pixels, side):
    picture = Image.fromarray(pixels.squeeze()).convert("RGB")
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))


def make(network: Network, npz: pathlib.Path, out: pathlib.Path, counts=(0, 0)) -> None:
    """Write the features of a set, of the first images of each class if `counts` says so."""
    data = dict(np.load(npz, allow_pickle=False))
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    start = time.monotonic()
    for split, prefix, count in (("train", "", counts[0]), ("test", "test_", counts[1])):
        labels = data[f"{split}_labels"]
        rows = first_of_each(labels, count)
        features = network.features(data[f"{split}_images"][rows])
        np.save(unfinished / f"{prefix}features.npy", features)
        np.save(unfinished / f"{prefix}labels.npy", labels[rows])
    np.save(unfinished / "class_names.npy", data["class_names"])
    made = {"from": npz.name, "side": network.side, "weights": network.config.init_from}
    made |= {"jax": jax.__version__, "images_per_class": list(counts)}
    (unfinished / "made.json").write_text(json.dumps(made, indent=1))
    unfinished.rename(out)
    print(f"{out}: {time.monotonic() - start:.0f} s", flush=True)


def parse(doc: str, sets: str, **further: dict) -> tuple[argparse.Namespace, list[str]]:
    """Return the flags of a launcher that reads FOLDER/NAME.npz, and the names of its sets.

    Args:
        doc: Its docstring.
        sets: The default of --sets.
        further: {flag: keywords of `add_argument`} of its own.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="source", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--sets", default=sets)
    parser.add_argument("--side", type=int, default=SIDE)
    for flag, keywords in further.items():
        parser.add_argument(f"--{flag}", **keywords)
    args = parser.parse_args()
    names = args.sets.split(",")
    if missing := [name for name in names if not (args.source / f"{name}.npz").exists()]:
        parser.error(f"--from={args.source} has no {missing[0]}.npz")
    return args, names


def main():
    counts = {"default": "0/0", "help": "TRAIN/TEST; 0: all"}
    args, names = parse(__doc__, "cifar100,cifar10,fashion_mnist", images_per_class=counts)
    counts = tuple(int(count) for count in args.images_per_class.split("/"))
    network = None
    for name in names:
        if not (args.out / name).exists():
            network = network or Network(args.side)
            make(network, args.source / f"{name}.npz", args.out / name, counts)


if __name__ == "__main__":
    main()
