"""Slices of real image sets that may lie beside the checkout; a test that needs one is skipped
where they do not."""

import io

import numpy as np
import pytest
from PIL import Image
from small_runs import ROOT

SHARED = ROOT.parent / "shared" / "data"
# Of each set a file that holds a split of it, and that split.
PARTS = {
    "cifar10": ("cifar10.npz", "test_"),
    "cifar100": ("cifar100_test.npz", ""),
    "tinyimagenet100": ("tinyimagenet100.npz", "val_"),
}


def encoded(name, train, test, num_classes=None):
    """({"train", "test": (files, labels)}, class names) of a slice of a set.

    `files` are image files as bytes, `train` and then `test` of each of the first `num_classes`
    classes. Names are WordNet ids where the set has them.
    """
    file, prefix = PARTS[name]
    if not (SHARED / file).exists():
        pytest.skip(f"the images of {name} are not at ../shared/data")
    with np.load(SHARED / file) as stored:
        names = stored["wnids" if "wnids" in stored else "class_names"].tolist()[:num_classes]
        labels, offsets = (stored[f"{prefix}{key}"] for key in ("labels", "offsets"))
        pixels = stored[f"{prefix}bytes"].tobytes()
    members = [np.flatnonzero(labels == label)[: train + test] for label in range(len(names))]
    parts = {
        "train": np.sort(np.concatenate([rows[:train] for rows in members])),
        "test": np.sort(np.concatenate([rows[train:] for rows in members])),
    }
    files = lambda rows: [pixels[offsets[i] : offsets[i + 1]] for i in rows]  # noqa: E731
    return {split: (files(rows), labels[rows].astype(int)) for split, rows in parts.items()}, names


def arrays(name, train, test, num_classes=None):
    """The same decoded, with the keys of source=arrays."""
    parts, names = encoded(name, train, test, num_classes)
    found = {"class_names": np.array(names)}
    for split, (files, labels) in parts.items():
        pictures = (Image.open(io.BytesIO(file)).convert("RGB") for file in files)
        found |= {f"{split}_images": np.stack(list(pictures)), f"{split}_labels": labels}
    return found


def write_folder(root, name, train, test, num_classes=None):
    """The same as DIR/train/<class>/* and DIR/val/<class>/*, as ImageNet's; returns `root`."""
    parts, names = encoded(name, train, test, num_classes)
    for split, (files, labels) in parts.items():
        for i, (file, label) in enumerate(zip(files, labels, strict=True)):
            path = root / {"train": "train", "test": "val"}[split] / names[label]
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{i:05d}.JPEG").write_bytes(file)
    return root
