"""Classes of image files by a trained run: the nearest prototypes and their cosines.

  python -m hsproto.predict --workdir=runs/digits one.png two.png

A line an image: its path, then the likeliest classes, each with the cosine between the image's
embedding and the class's prototype (1: the same direction). Transparency is not looked at.
"""

import jax
import jax.numpy as jnp
import numpy as np

from hsproto import augment, cli, data, models, runs, sharding
from hsproto import state as state_lib
from hsproto.numerics import matmul, unit


def nearest(config, variables, prototypes, images):
    """(classes, cosines), likeliest first, int and float32 [B, K], of uint8 images [B, H, W, C].

    Ranked as the run's classifier ranks them: by cosine, but for cross entropy by logit.
    """
    model = models.build(config, config.num_classes)
    images = augment.make_preprocess(config)(images)
    projections = models.forward(model, variables, images, train=False)[0].projections
    cosines = matmul(unit(projections), unit(prototypes).T)
    scores = cosines
    if config.loss == "cross_entropy":
        weights, bias = models.classifier(variables)
        scores = matmul(projections, weights.T) + (0.0 if bias is None else bias)
    order = jnp.argsort(-scores, axis=1)
    return np.asarray(order), np.asarray(jnp.take_along_axis(cosines, order, axis=1))


def main(argv):
    parser = cli.Parser(__doc__, prog="python -m hsproto.predict")
    parser.add_argument("--workdir", required=True, help="the workdir of a finished run")
    parser.add_argument("--top", type=int, default=3, help="classes to print (default 3)")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    args = parser.parse_args(argv)
    if args.top < 1:
        parser.error(f"--top={args.top} must be at least 1")
    stored = runs.read_prototypes(args.workdir)
    prototypes, names = stored["prototypes"], [str(name) for name in stored["class_names"]]
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    config, state, _ = state_lib.load(args.workdir, mesh)
    images = np.stack([data.read_image(image, config) for image in args.images])
    classes, cosines = nearest(config, state.variables, prototypes, images)
    for image, row, values in zip(args.images, classes, cosines, strict=True):
        top = zip(row[: args.top], values, strict=False)
        print(f"{image}: " + "  ".join(f"{names[c]} {cosine:+.3f}" for c, cosine in top))
    return 0


if __name__ == "__main__":
    cli.run(main)
