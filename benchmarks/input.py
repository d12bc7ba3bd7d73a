"""Images a second that streaming gives: whole pictures cropped on the host, against squares.

python benchmarks/input.py [--rounds=3 --seconds=3 --workers=2] [--out=input.json]

The pictures are cut out of scikit-learn's two photographs: JPEG files of 500x375, ImageNet's
typical size, for 224 px, and PNG files of 64x64 for 32 px. `squares` is crop_on=device (the short
side resized, the centre cut out; the device crops later), `crops` is crop_on=host with one view,
`crops, 2 views` with the two of an encoder loss, in images, not views. Rows are read with threads
and with worker processes; all ways take turns, and a ratio to `squares` is the median over rounds.
"""

import argparse
import importlib.metadata
import json
import os
import tempfile
import time

import jax
import measuring
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from hsproto import config as config_lib
from hsproto.data import load as load_lib
from hsproto.data import loader
from hsproto.parallel import mesh as mesh_lib

# name: (suffix, width and height of the files, what Pillow is told, image_size, batch_size)
SETS = {
    "JPEG 500x375 for 224 px": (".jpg", (500, 375), {"quality": 90}, 224, 64),
    "PNG 64x64 for 32 px": (".png", (64, 64), {}, 32, 128),
}
WARM_UP_STEPS = 8  # more than are loaded ahead
WAYS = {
    "squares": {"crop_on": "device"},
    "crops": {"crop_on": "host"},
    "crops, 2 views": {"crop_on": "host", "loss": "scl"},
}


def write_pictures(root, count, suffix, shape, options):
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    rng = np.random.default_rng(0)
    for i in range(count):
        room = np.subtract(photographs[i % 2].size, shape)
        left, top = rng.integers(0, room + 1)
        picture = photographs[i % 2].crop((left, top, left + shape[0], top + shape[1]))
        for split in ("train", "test") if i < 2 else ("train",):
            path = os.path.join(root, split, "ab"[i % 2])
            os.makedirs(path, exist_ok=True)
            picture.save(os.path.join(path, f"{i:05d}{suffix}"), **options)


def images_per_second(config, mesh, seconds):
    """Of a stream in full flow: without the start of its threads or processes."""
    opened = loader.open_loader(load_lib.load_splits(config).train, config, mesh)
    batches = opened.batches(0, 10**6)
    for _ in range(WARM_UP_STEPS):
        jax.block_until_ready(next(batches))
    start, images = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        jax.block_until_ready(next(batches))
        images += config.batch_size
    batches.close()
    return images / passed


def measure(root, size, batch_size, workers, args):
    """({way: images a second}, {way: ratio to squares}), medians over rounds of taking turns."""
    rounds = []
    for _ in range(args.rounds):
        rates = {}
        for way, changes in WAYS.items():
            config = config_lib.default()
            config.update(source="folder", data_dir=root, image_size=size, batch_size=batch_size)
            config.update(placement="stream", workers=workers, **changes)
            rates[way] = images_per_second(config, mesh_lib.make_mesh(), args.seconds)
        rounds.append(rates)
    rates = {way: float(np.median([r[way] for r in rounds])) for way in WAYS}
    ratios = {way: float(np.median([r[way] / r["squares"] for r in rounds])) for way in WAYS}
    return rates, ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="files of a set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="that each way is timed a round")
    parser.add_argument("--workers", type=int, default=2, help="processes, beside threads alone")
    parser.add_argument("--out")
    args = parser.parse_args()
    results = []
    print(f"{'images/s':<26}{'read by':<14}" + "".join(f"{way:>22}" for way in WAYS))
    for name, (suffix, shape, options, size, batch_size) in SETS.items():
        with tempfile.TemporaryDirectory() as root:
            write_pictures(root, args.images, suffix, shape, options)
            for workers in (0, args.workers):
                rates, ratios = measure(root, size, batch_size, workers, args)
                by = f"{workers} workers" if workers else "threads"
                results.append({"set": name, "by": by, "images_per_second": rates, "ratio": ratios})
                cells = "".join(f"{rates[way]:>14,.0f} ({ratios[way]:.2f})" for way in WAYS)
                print(f"{name:<26}{by:<14}{cells}", flush=True)
    versions = {p: importlib.metadata.version(p) for p in ("grain", "jax", "numpy", "pillow")}
    if args.out:
        with open(args.out, "w") as file:
            report = {"results": results, "machine": measuring.machine(), "versions": versions}
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
