"""`hsproto head` against logistic regression and an MLP of PyTorch, on EfficientNet's features.

  python benchmarks/head.py --from=cifar100.npz --out=DIR [--torch=PYTHON]

Makes features of 10,000 training and 2,000 test images of CIFAR-100, at 96 px, with the weights of
the extra `photos`, and trains on them:

- `hsproto head --early_stop --epochs=80` with four losses, without and with a hidden layer of 512
  units (`--embedding=pooled`: no further linear layer behind it);
- scikit-learn's logistic regression on standardized features;
- with --torch, by a Python that has torch, an MLP of 512 units: AdamW, rate 0.001, cosine, batches
  of 512, for 5, 10, 20, ... epochs as `--early_stop` tries them.

A tenth of the training rows chooses strengths and epochs; the test rows choose nothing. The npz
holds train_images, train_labels, test_images, test_labels and class_names.
"""

import argparse
import pathlib
import subprocess
import tempfile
import time

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hsproto import cli, head
from hsproto.data import loader
from hsproto.data.arrays import ArraySource
from hsproto.models import pretrained
from hsproto.parallel import mesh as mesh_lib
from hsproto.runs import summary
from hsproto.training import frozen
from hsproto.training import state as state_lib

SIDE, TRAIN, TEST = 96, 100, 20  # px; images per class
LOSSES = ("nonl", "ntce", "normface", "cross_entropy")
MLP = ("--hidden_layers=512", "--embedding=pooled")


def make_features(npz, path):
    """Write the features of the first images of each class of an npz of images."""
    data = dict(np.load(npz))
    config = cli.load_config("photos")
    weights = pretrained.load(config.init_from)
    prepared = pretrained.preprocessing(weights)
    config.update(num_classes=len(data["class_names"]), num_examples=1, image_size=SIDE)
    config.update(mean=prepared.mean, std=prepared.std)
    mesh = mesh_lib.make_mesh()
    state = state_lib.create(config, mesh)
    state = state_lib.with_backbone(state, pretrained.fill(config, weights, state.variables))
    found = {"class_names": data["class_names"]}
    for split, prefix, count in (("train", "", TRAIN), ("test", "test_", TEST)):
        labels = data[f"{split}_labels"]
        first = [np.flatnonzero(labels == label)[:count] for label in range(config.num_classes)]
        rows = np.sort(np.concatenate(first))
        images = np.stack([_resized(data[f"{split}_images"][row]) for row in rows])
        source = ArraySource(images, labels[rows], data["class_names"])
        opened = loader.open_loader(source, config, mesh)
        features, ids = frozen.compute_features(config, state.variables, opened, mesh)
        found |= {f"{prefix}features": features, f"{prefix}labels": ids}
    np.savez(path, **found)


def _resized(pixels):
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def by_head(path, *flags):
    """Test accuracy and epochs of `hsproto head --early_stop`."""
    with tempfile.TemporaryDirectory() as workdir:
        words = [str(path), f"--workdir={workdir}", "--early_stop", "--epochs=80", *flags]
        head.main(words)
        result = summary.read_summary(workdir)
    return result["test"]["accuracy"], f"{result['config']['epochs']:g} epochs"


def logistic_regression(path):
    """Test accuracy, with the strength that is best on a tenth of the training rows."""
    data = np.load(path)
    scaler = StandardScaler().fit(data["features"])
    rows, test_rows = (scaler.transform(data[name]) for name in ("features", "test_features"))
    labels, chosen = data["labels"], held_out(data["labels"])

    def fitted(strength, where):
        return LogisticRegression(C=strength, max_iter=300).fit(rows[where], labels[where])

    strengths = (1e-4, 1e-3, 1e-2, 1e-1)
    best = max(strengths, key=lambda s: fitted(s, ~chosen).score(rows[chosen], labels[chosen]))
    everything = np.ones(len(labels), bool)
    return fitted(best, everything).score(test_rows, data["test_labels"]), f"C={best:g}"


def held_out(labels):
    """A tenth of the rows of each class, bool [N]."""
    random, chosen = np.random.default_rng(0), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen[random.permutation(members)[: len(members) // 10]] = True
    return chosen


def timed(name, measure, *arguments):
    start = time.process_time()
    accuracy, what = measure(*arguments)
    print(f"RESULT {name}: {accuracy:.4f} ({what}, {time.process_time() - start:.0f} s of CPU)")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="npz", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--torch", metavar="PYTHON")
    args = parser.parse_args()
    path = args.out / "features.npz"
    if not path.exists():
        args.out.mkdir(parents=True, exist_ok=True)
        make_features(args.npz, path)
    timed("logistic regression", logistic_regression, path)
    for loss in LOSSES:
        timed(f"{loss}, linear", by_head, path, f"--loss={loss}")
        timed(f"{loss}, hidden layer", by_head, path, f"--loss={loss}", *MLP)
    if args.torch:
        chosen = args.out / "held_out.npy"
        np.save(chosen, held_out(np.load(path)["labels"]))
        script = pathlib.Path(__file__).with_name("torch_mlp.py")
        subprocess.run([args.torch, str(script), str(path), str(chosen)], check=True)


if __name__ == "__main__":
    main()
