"""`hsproto head` against logistic regression and an MLP of PyTorch, on EfficientNet's features.

  python launch/image_features.py --from=NPZ --out=DIR --sets=cifar100 --images_per_class=100/20
  python benchmarks/head.py DIR/cifar100 [--torch=PYTHON]

Trains on features of 10,000 training and 2,000 test images of CIFAR-100, at 96 px:

- `hsproto head --early_stop --epochs=80` with four losses, without and with a hidden layer of 512
  units (`--embedding=pooled`: no further linear layer behind it);
- scikit-learn's logistic regression on standardized features;
- with --torch, by a Python that has torch, an MLP of 512 units: AdamW, rate 0.001, cosine, batches
  of 512, for 5, 10, 20, ... epochs as `--early_stop` tries them.

A tenth of the training rows chooses strengths and epochs; the test rows choose nothing.
"""

import argparse
import pathlib
import subprocess
import tempfile
import time

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hsproto import head
from hsproto.runs import summary

LOSSES = ("nonl", "ntce", "normface", "cross_entropy")
MLP = ("--hidden_layers=512", "--embedding=pooled")


def read(folder):
    """The arrays of a folder of npy files."""
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


def by_head(path, *flags):
    """Test accuracy and epochs of `hsproto head --early_stop`."""
    with tempfile.TemporaryDirectory() as workdir:
        words = [str(path), f"--workdir={workdir}", "--early_stop", "--epochs=80", *flags]
        head.main(words)
        result = summary.read_summary(workdir)
    return result["test"]["accuracy"], f"{result['config']['epochs']:g} epochs"


def logistic_regression(path):
    """Test accuracy, with the strength that is best on a tenth of the training rows."""
    data = read(path)
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
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--torch", metavar="PYTHON")
    args = parser.parse_args()
    path = args.folder
    timed("logistic regression", logistic_regression, path)
    for loss in LOSSES:
        timed(f"{loss}, linear", by_head, path, f"--loss={loss}")
        timed(f"{loss}, hidden layer", by_head, path, f"--loss={loss}", *MLP)
    if args.torch:
        with tempfile.TemporaryDirectory() as folder:
            features, chosen = f"{folder}/features.npz", f"{folder}/held_out.npy"
            np.savez(features, **read(path))
            np.save(chosen, held_out(read(path)["labels"]))
            script = pathlib.Path(__file__).with_name("torch_mlp.py")
            subprocess.run([args.torch, str(script), features, chosen], check=True)


if __name__ == "__main__":
    main()
