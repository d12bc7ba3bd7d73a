"""Own photos against logistic regression on the same features, and against training from scratch.

  python benchmarks/photos.py --from=tinyimagenet100.npz --out=DIR [--scratch]

Makes JPEG files of 64 to 160 px of ten classes, 60 to train and 100 to test on per class, trains
the packaged recipe `photos` on them, and fits scikit-learn's logistic regression to the same
features with five strengths of regularization, of which the best on the test set counts. With
--scratch also a small network from scratch (recipe `small`, 32 px, 100 epochs).

The npz holds train_bytes, train_offsets, train_labels (encoded images one after another), the same
of val, and class_names.
"""

import argparse
import io
import os
import pathlib
import time

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

from hsproto import cli, train
from hsproto.data import loader
from hsproto.evaluation.trained import TrainedRun
from hsproto.training import frozen

TRAIN, TEST_OF_TRAIN = 60, 50  # images per class; 50 more to test on are the set's own


def make_photos(npz, folder, seed=0):
    """Write train/<class>/*.jpg and test/<class>/*.jpg of ten classes."""
    random = np.random.RandomState(seed)
    data = dict(np.load(npz))
    for label in random.permutation(len(data["class_names"]))[:10]:
        name = str(data["class_names"][label]).split(",")[0].replace(" ", "_")
        train_rows, test_rows = (
            np.flatnonzero(data[f"{split}_labels"] == label) for split in ("train", "val")
        )
        parts = (
            ("train", "train", train_rows[:TRAIN]),
            ("test", "val", test_rows),
            ("test", "train", train_rows[TRAIN : TRAIN + TEST_OF_TRAIN]),
        )
        for part, split, rows in parts:
            place = folder / part / name
            place.mkdir(parents=True, exist_ok=True)
            for row in rows:
                start, stop = data[f"{split}_offsets"][row : row + 2]
                picture = Image.open(io.BytesIO(data[f"{split}_bytes"][start:stop].tobytes()))
                side = random.randint(64, 161)
                picture = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
                picture.save(place / f"{split}{row:05d}.jpg", quality=90)


def logistic_regression(workdir):
    """The best test accuracy of logistic regression on the backbone's features of a run."""
    run = TrainedRun(workdir)
    parts = []
    for split in run.splits:
        opened = loader.open_loader(split, run.config, run.mesh)
        parts.append(frozen.compute_features(run.config, run.variables, opened, run.mesh))
    (features, labels), (test_features, test_labels) = parts
    return max(
        LogisticRegression(C=strength, max_iter=2000)
        .fit(features, labels)
        .score(test_features, test_labels)
        for strength in (0.01, 0.1, 1, 10, 100)
    )


def trained(config, workdir):
    wall, cpu = time.perf_counter(), time.process_time()
    summary = train.train(cli.load_config(config), workdir)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return f"{summary['test']['accuracy']:.3f} ({wall:.0f} s, {cpu:.0f} s of CPU)"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="npz", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--scratch", action="store_true")
    args = parser.parse_args()
    photos = args.out / "photos"
    if not os.path.isdir(photos):
        make_photos(args.npz, photos)
    workdir = str(args.out / "run")
    print(f"photos: {trained(f'photos:data_dir={photos}', workdir)}")
    print(f"logistic regression: {logistic_regression(workdir):.3f}")
    if args.scratch:
        changes = f"source=folder,data_dir={photos},dataset=photos,image_size=32,epochs=100"
        changes += ",eval_every_epochs=50,base_lr=0.2"
        print(f"from scratch: {trained(f'small:{changes}', str(args.out / 'scratch'))}")


if __name__ == "__main__":
    main()
