"""Classify image files with a trained run: the nearest prototypes and their cosines.

  hsproto predict --workdir=runs/digits one.png two.png

One line per image: its path, then the likeliest classes, each with the cosine between the image's
embedding and the class's prototype (1: the same direction). A run on features takes files of
features and numbers their rows. Transparency is ignored.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["predict", *sys.argv[1:]])

from typing import Any

import jax
import numpy as np

from hsproto.data import augment, features, folder
from hsproto.data.source import data_spec
from hsproto.evaluation import trained
from hsproto.models import classifier as classifier_lib
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.runs import summary as summary_lib


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


def _read(config, paths):
    """What the files hold: (a name of each image, images)."""
    if config.source == "features":
        rows = [features.load_rows(path, config.channels).images for path in paths]
        named = zip(paths, rows, strict=True)
        return [f"{path}[{i}]" for path, of_file in named for i in range(len(of_file))], (
            np.concatenate(rows)
        )
    spec = data_spec(config)
    return paths, np.stack([folder.read_image(path, spec) for path in paths])


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
    labels, images = _read(config, args.images)
    classes, cosines = nearest(config, state.variables, prototypes, images)
    for image, row, values in zip(labels, classes, cosines, strict=True):
        top = zip(row[: args.top], values, strict=False)
        print(f"{image}: " + "  ".join(f"{names[c]} {cosine:+.3f}" for c, cosine in top))
    return 0
