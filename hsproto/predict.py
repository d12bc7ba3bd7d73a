"""Classify image files with a trained run: the nearest prototypes and their cosines.

  hsproto predict --workdir=runs/digits one.png two.png

One line per image: its path, then the likeliest classes, each with the cosine between the image's
embedding and the class's prototype (1: the same direction). Files are read as training reads them.
What cannot be read is told and passed over; the status is 2 then. A run on features takes files of
features and numbers their rows.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["predict", *sys.argv[1:]])

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from hsproto.data import augment, decode, features, folder
from hsproto.data.source import data_spec
from hsproto.errors import UserError, visible
from hsproto.evaluation import trained
from hsproto.models import architecture
from hsproto.models import classifier as classifier_lib
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.runs import summary as summary_lib

BATCH_SIZE = 64  # images in memory at a time


def nearest(
    config: Any, variables: Any, prototypes: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (classes, cosines), likeliest first, int and float32 [B, K].

    Ranked as the classifier of the run ranks them: by cosine, for cross entropy by logit.

    Args:
      prototypes: [K, D], those that predict.
      images: uint8 [B, H, W, C].
    """
    model = model_lib.build(config, config.num_classes)
    images = augment.make_preprocess(config)(images)
    projections = model_lib.forward(model, variables, images, train=False)[0].projections
    _, bias = classifier_lib.classifier(variables)
    classes, cosines = classifier_lib.rank(config, projections, prototypes, bias)
    return np.asarray(classes), np.asarray(cosines)


def main(argv: list[str]) -> int:
    parser = cli.Parser(__doc__, prog="hsproto predict")
    parser.add_argument(
        "--workdir", type=cli.local_path, required=True, help="the workdir of a finished run"
    )
    parser.add_argument("--top", type=int, default=3, help="classes to print (default 3)")
    parser.add_argument(
        "images", type=cli.local_path, nargs="+", metavar="IMAGE", help="image files"
    )
    args = parser.parse_args(argv)
    if args.top < 1:
        parser.error(f"--top={args.top} must be at least 1")
    stored = summary_lib.read_prototypes(args.workdir)
    prototypes, names = stored["prototypes"], [str(name) for name in stored["class_names"]]
    mesh = mesh_lib.make_mesh(jax.local_devices()[:1])
    config, state, _ = trained.load_state(args.workdir, mesh)
    wanted = (config.num_classes, architecture.output_dim(config))
    if prototypes.shape != wanted:
        raise UserError(
            f"{args.workdir}: prototypes.npz has prototypes of shape {prototypes.shape}, the run's "
            f"are {wanted}: it is damaged or another run's"
        )
    failed = 0
    batches = _of_features if config.source == "features" else _of_pictures
    for paths, images, unreadable in batches(args.images, config):
        failed += unreadable
        if not paths:
            continue
        classes, cosines = nearest(config, state.variables, prototypes, np.stack(images))
        for path, row, values in zip(paths, classes, cosines, strict=True):
            top = zip(row[: args.top], values, strict=False)
            found = "  ".join(f"{names[c]} {cosine:+.3f}" for c, cosine in top)
            print(visible(f"{path}: {found}"), flush=True)
    if failed:
        print(f"hsproto: {failed} of {len(args.images)} images could not be read", file=sys.stderr)
    return 2 if failed else 0


def _of_pictures(paths, config):
    """Yield (paths, images, number of unreadable ones) of batches of image files."""
    for start in range(0, len(paths), BATCH_SIZE):
        of_batch = paths[start : start + BATCH_SIZE]
        readable, images = _readable(of_batch, data_spec(config))
        yield readable, images, len(of_batch) - len(readable)


def _of_features(paths, config):
    """Yield (names of rows, rows, 0) of each file of features."""
    for path in paths:
        rows = features.load_rows(path, config.channels).images
        yield [f"{path}[{i}]" for i in range(len(rows))], rows, 0


def _readable(paths: Sequence[str], spec: Any) -> tuple[list[str], list[np.ndarray]]:
    """Return the paths of the images that can be read, and these; tell of the others."""
    readable, images = [], []
    for path in paths:
        try:
            images.append(folder.read_image(path, spec))
            readable.append(path)
        except decode.UnreadableImage as error:
            print(visible(f"hsproto: {error}"), file=sys.stderr, flush=True)
    return readable, images
