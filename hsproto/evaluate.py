"""Accuracy and geometry of a run, on the training set without augmentation and on the test set.

python -m hsproto.evaluate --workdir=runs/digits [--checkpoint=STEP]
"""

import datetime
import importlib.metadata
import os
import platform
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsproto import augment, cli, data, feed, geometry, models, prototypes, report, sharding, writer
from hsproto import config as config_lib
from hsproto import state as state_lib
from hsproto.numerics import matmul, unit


class Feeds(NamedTuple):
    """The opened training and test set."""

    train: Any
    test: Any


class Embedded(NamedTuple):
    """A whole split as features: global arrays split over the mesh, labels on the host.

    `where` is False on the rows that only fill the last batch.
    """

    features: jax.Array  # float32 [N, D], what the encoder gives
    projections: jax.Array  # float32 [N, d], what SCL's head makes of them; else the features
    labels: np.ndarray
    where: np.ndarray


class Evaluation(NamedTuple):
    """`metrics`: {"test": {...}, "train": {...}}; the classifier and the training class means.

    `prototypes` float32 [K, D] are those that predict; `class_means` [K, D] have unit length.
    """

    metrics: dict
    prototypes: np.ndarray
    class_means: np.ndarray


def predict(config, features, weights, bias=None):
    """Predicted labels [B]: by inner product for cross entropy, by cosine for all other losses."""
    if config.loss == "cross_entropy":
        logits = matmul(features, weights.T)
        return jnp.argmax(logits if bias is None else logits + bias, axis=1)
    return prototypes.predict(features, weights)


def make_embed(config, mesh):
    """The compiled encoder at evaluation: (variables, uint8 images) -> models.Outputs."""
    model = models.build(config, config.num_classes)
    preprocess = augment.make_preprocess(config)

    def embed(variables, images):
        return models.forward(model, variables, preprocess(images), train=False)[0]

    whole, split = sharding.replicated(mesh), sharding.over_batch(mesh)
    return jax.jit(embed, in_shardings=(whole, split), out_shardings=split)


def embed_all(config, variables, opened, mesh, embed=None):
    """A whole split through the encoder, as `Embedded`; rows in no particular order."""
    embed = embed or make_embed(config, mesh)
    size = config.eval_batch_size
    batches = -(-len(opened) // size)
    # Batch j fills column j of [size, batches, D]: each device writes to its own rows only.
    place = jax.jit(lambda all_, one, j: all_.at[:, j].set(one), donate_argnums=0)
    columns, labels, where = None, [], []
    for j, batch in enumerate(opened.in_order(size)):
        outputs = embed(variables, batch["image"])
        if columns is None:
            columns = jax.tree.map(
                lambda x: jnp.zeros(
                    (size, batches, x.shape[1]), jnp.float32, device=sharding.over_batch(mesh)
                ),
                outputs,
            )
        columns = jax.tree.map(lambda all_, one, j=j: place(all_, one, j), columns, outputs)
        labels.append(_on_host(batch["label"], mesh))
        where.append(_on_host(batch["where"], mesh))
    flat = jax.jit(lambda x: x.reshape(-1, x.shape[-1]), out_shardings=sharding.over_batch(mesh))
    return Embedded(
        *(flat(x) for x in columns), np.stack(labels, 1).ravel(), np.stack(where, 1).ravel()
    )


def evaluate(config, variables, feeds, mesh):
    """Accuracy and geometry on both splits, as exact sums over their images.

    The classifier is the run's own or, for an encoder loss, the fixed prototypes: directions of the
    training set's class means of what SCL's head gives. `accuracy_class_means` is that of the same
    training-free classifier on any run. Losses on the sphere are measured on the sphere: their
    nc1-nc4 and cdnv are of unit features and prototypes, those of cross entropy of the features as
    they are.
    """
    embed = make_embed(config, mesh)
    train, test = (embed_all(config, variables, f, mesh, embed) for f in (feeds.train, feeds.test))
    return measure(config, train, test, *models.classifier(variables), mesh)


def measure(config, train, test, weights, bias, mesh):
    """`evaluate` on embedded splits and a classifier; weights None: the fixed prototypes."""
    means = prototypes.fit(
        train.projections, train.labels, num_classes=config.num_classes, where=train.where
    )
    weights = means if weights is None else weights
    metrics = {
        "test": _measure(config, test, weights, bias, means, mesh),
        "train": _measure(config, train, weights, bias, means, mesh),
    }
    return Evaluation(metrics, _on_host(weights, mesh), _on_host(means, mesh))


def _measure(config, embedded, weights, bias, means, mesh):
    features = embedded.projections
    labels, where = embedded.labels, embedded.where
    found = {
        "accuracy": predict(config, features, weights, bias),
        "accuracy_class_means": prototypes.predict(features, means),
    }
    found = {
        name: np.sum((_on_host(predicted, mesh) == labels) & where) / np.sum(where)
        for name, predicted in found.items()
    }
    if config.loss != "cross_entropy":
        features, weights = unit(features), unit(weights)
    found |= geometry.neural_collapse(
        features, labels, weights, num_classes=config.num_classes, bias=bias, where=where
    )
    return {name: float(value) for name, value in found.items()}


def _on_host(array, mesh):
    return np.asarray(jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))(array))


def summarise(config, state, evaluation, mesh, images_per_second):
    """What summary.json holds."""
    packages = ("hsproto", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "step": int(state.step),
        **evaluation.metrics,
        "config": config.to_dict(),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in packages},
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "images_per_second": images_per_second,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write(workdir, summary, evaluation, class_names):
    """Writes prototypes.npz and, last, summary.json."""
    np.savez(
        os.path.join(workdir, "prototypes.npz"),
        prototypes=evaluation.prototypes,
        class_means=evaluation.class_means,
        class_names=list(class_names),
    )
    writer.write_text(os.path.join(workdir, "summary.json"), writer.to_json(summary, indent=1))


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main(argv):
    parser = cli.Parser(__doc__, prog="python -m hsproto.evaluate")
    parser.add_argument("--workdir", required=True, help="the workdir of a run")
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the newest")
    args = parser.parse_args(argv)
    mesh = sharding.make_mesh()
    config, state, step = state_lib.load(args.workdir, mesh, args.checkpoint)
    config_lib.validate(config)
    sharding.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
    splits = data.load(config)
    feeds = Feeds(*(feed.open(split, config, mesh) for split in splits))
    found = evaluate(config, state.variables, feeds, mesh)
    print(report.table(summarise(config, state, found, mesh, None)))
    return 0


if __name__ == "__main__":
    cli.run(main)
