"""Accuracy and geometry of a run, on the training set without augmentation and on the test set.

python -m hsproto.evaluate --workdir=runs/digits [--checkpoint=STEP] [--logit_adjustment=1]
"""

import datetime
import importlib.metadata
import os
import platform
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsproto import (
    augment,
    cli,
    data,
    distributed,
    feed,
    geometry,
    longtail,
    models,
    prototypes,
    report,
    sharding,
    snapshots,
    writer,
)
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
    `per_class`, of imbalanced training sets, else None: lists [K] of "train_images" and of
    "test_accuracy" and "train_accuracy". `snapshot`, where one was asked for: a
    `snapshots.Snapshot`.
    """

    metrics: dict
    prototypes: np.ndarray
    class_means: np.ndarray
    per_class: dict | None = None
    snapshot: snapshots.Snapshot | None = None


def predict(config, features, weights, bias=None):
    """Predicted labels [B]: by inner product for cross entropy, by cosine for all other losses.

    `bias` [K] is added to the inner products, or to the cosines over the config's temperature.
    """
    if config.loss == "cross_entropy":
        logits = matmul(features, weights.T)
    elif bias is None:
        return prototypes.predict(features, weights)
    else:
        logits = prototypes.logits(features, weights, temperature=config.temperature)
    return jnp.argmax(logits if bias is None else logits + bias, axis=1)


class Evaluator:
    """Measures a run's states; what it compiles is compiled once.

    config is resolved; feeds are a run's `Feeds`.
    """

    def __init__(self, config, feeds, mesh):
        self._config, self._feeds, self._mesh = config, feeds, mesh
        model = models.build(config, config.num_classes)
        preprocess = augment.make_preprocess(config)
        whole, split = sharding.replicated(mesh), sharding.over_batch(mesh)

        def embed(variables, images):
            return models.forward(model, variables, preprocess(images), train=False)[0]

        def place(columns, outputs, j):
            return jax.tree.map(lambda all_, one: all_.at[:, j].set(one), columns, outputs)

        self.embed = jax.jit(embed, in_shardings=(whole, split), out_shardings=split)
        self._empty = jax.jit(lambda shape: jnp.zeros(shape), static_argnums=0, out_shardings=split)
        self._place = jax.jit(place, donate_argnums=0)
        self._flat = jax.jit(lambda x: x.reshape(-1, x.shape[-1]), out_shardings=split)
        self._gather = jax.jit(lambda x: x, out_shardings=whole)
        self._take = jax.jit(lambda x, rows: x[rows], out_shardings=whole)

    def evaluate(self, variables, adjustment=1.0, snapshot_points=0):
        """Accuracy and geometry on both splits, as exact sums over their images: `Evaluation`.

        The classifier is the run's own or, for an encoder loss, the fixed prototypes: directions
        of the training set's class means of what SCL's head gives. `accuracy_class_means` is that
        of the same training-free classifier on any run. `adjustment` and `snapshot_points` are as
        in `measure`.
        """
        train, test = self.embed_splits(variables)
        weights, bias = models.classifier(variables)
        return self.measure(self._config, train, test, weights, bias, adjustment, snapshot_points)

    def embed_splits(self, variables):
        """(train, test) as `Embedded`."""
        return tuple(self.embed_all(variables, feed) for feed in self._feeds)

    def embed_all(self, variables, opened):
        """A whole split through the encoder, as `Embedded`; rows in no particular order."""
        size = self._config.eval_batch_size
        batches = -(-len(opened.source) // size)
        # Batch j fills column j of [size, batches, D]: each device writes to its own rows only.
        columns, labels, where = None, [], []
        for j, batch in enumerate(opened.in_order(size)):
            outputs = self.embed(variables, batch["image"])
            if columns is None:
                columns = jax.tree.map(lambda x: self._empty((size, batches, x.shape[1])), outputs)
            columns = self._place(columns, outputs, j)
            labels.append(self._on_host(batch["label"]))
            where.append(self._on_host(batch["where"]))
        return Embedded(
            *map(self._flat, columns), np.stack(labels, 1).ravel(), np.stack(where, 1).ravel()
        )

    def measure(self, config, train, test, weights, bias, adjustment=1.0, snapshot_points=0):
        """`Evaluation` of embedded splits by a classifier; weights None: the fixed prototypes.

        What the loss of `config` normalises is measured on the sphere: nc1-nc4 and cdnv are of unit
        features and prototypes, but for cross entropy of features and weights as they are.

        On imbalanced training sets accuracy is told by class and by shots as well and, where the
        loss was a softmax over classes that did not adjust its logits, once more with logits
        adjusted afterwards (`accuracy_adjusted`): less `adjustment` times the log of the classes'
        frequencies. Of `snapshot_points` test images, if any, a snapshot is taken.
        """
        means = prototypes.fit(
            train.projections, train.labels, num_classes=config.num_classes, where=train.where
        )
        weights = means if weights is None else weights
        counts = np.bincount(train.labels[train.where], minlength=config.num_classes)
        imbalanced = config.imbalance_factor < 1 or longtail.is_imbalanced(counts)
        adjusted = None
        if imbalanced and longtail.can_adjust(config, counts):
            own = 0.0 if bias is None else bias
            adjusted = own - adjustment * longtail.log_prior(counts)
        metrics, per_class, by_run = {}, {"train_images": counts.tolist()}, {}
        for name, split in (("test", test), ("train", train)):
            predicted = {
                "accuracy": predict(config, split.projections, weights, bias),
                "accuracy_class_means": prototypes.predict(split.projections, means),
            }
            if adjusted is not None:
                predicted["accuracy_adjusted"] = predict(
                    config, split.projections, weights, adjusted
                )
            predicted = {key: self._on_host(labels) for key, labels in predicted.items()}
            by_run[name] = predicted["accuracy"]
            found, by_class = _accuracies(split, predicted, config.num_classes)
            per_class[f"{name}_accuracy"] = by_class["accuracy"].tolist()
            if imbalanced:
                found |= longtail.by_shots(by_class, counts)
            found |= self._geometry(config, split, weights, bias)
            metrics[name] = {key: float(value) for key, value in found.items()}
        per_class = per_class if imbalanced else None
        found = Evaluation(metrics, self._on_host(weights), self._on_host(means), per_class)
        if snapshot_points:
            snapshot = self._snapshot(test, by_run["test"], found, bias, snapshot_points)
            found = found._replace(snapshot=snapshot)
        return found

    def _snapshot(self, test, predicted, found, bias, count):
        size = self._config.eval_batch_size
        in_order = test.labels.reshape(size, -1)  # as `embed_all` fills them: [size, batches]
        rows, classes = snapshots.choose(in_order.T.ravel(), count)
        places = rows % size * in_order.shape[1] + rows // size
        return snapshots.Snapshot(
            rows=rows,
            labels=test.labels[places],
            features=np.asarray(self._take(test.projections, places)),
            predicted=predicted[places].astype(np.int32),
            classes=classes,
            prototypes=found.prototypes[classes],
            means=found.class_means[classes],
            bias=None if bias is None else self._on_host(bias)[classes],
        )

    def _geometry(self, config, split, weights, bias):
        features = split.projections
        if config.loss != "cross_entropy":
            features, weights = unit(features), unit(weights)
        return geometry.neural_collapse(
            features,
            split.labels,
            weights,
            num_classes=config.num_classes,
            bias=bias,
            where=split.where,
        )

    def _on_host(self, array):
        return np.asarray(self._gather(array))


def _accuracies(split, predicted, num_classes):
    """({name: accuracy}, {name: accuracy of each class [K]}) of {name: predicted labels}."""
    labels, whole, by_class = split.labels[split.where], {}, {}
    for name, found in predicted.items():
        found = found[split.where]
        whole[name] = np.mean(found == labels)
        by_class[name] = longtail.accuracy_by_class(found, labels, num_classes)
    return whole, by_class


def summarise(config, step, evaluation, mesh, images_per_second):
    """What summary.json holds."""
    packages = ("hsproto", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "step": step,
        **evaluation.metrics,
        **({"per_class": evaluation.per_class} if evaluation.per_class else {}),
        "config": config.to_dict(),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in packages},
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "images_per_second": images_per_second,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write(workdir, summary, evaluation, class_names):
    """Writes prototypes.npz and, last, summary.json."""
    temporary = os.path.join(workdir, "prototypes.tmp.npz")
    np.savez(
        temporary,
        prototypes=evaluation.prototypes,
        class_means=evaluation.class_means,
        class_names=list(class_names),
    )
    os.replace(temporary, os.path.join(workdir, "prototypes.npz"))
    writer.write_text(os.path.join(workdir, "summary.json"), writer.to_json(summary, indent=1))


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main(argv):
    parser = cli.Parser(__doc__, prog="python -m hsproto.evaluate")
    cli.add_run_flags(parser)
    parser.add_argument(
        "--logit_adjustment", type=float, default=1.0, metavar="STRENGTH",
        help="of accuracy_adjusted, where the training set is imbalanced; default: 1",
    )  # fmt: skip
    distributed.add_flags(parser)
    args = parser.parse_args(argv)
    if not 0 <= args.logit_adjustment < float("inf"):
        parser.error(f"--logit_adjustment={args.logit_adjustment} must be zero or positive")
    distributed.join(args)
    with distributed.end_where_one_is_lost():
        mesh = sharding.make_mesh()
        config, state, step = state_lib.load(args.workdir, mesh, args.checkpoint)
        config_lib.validate(config)
        sharding.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
        splits = data.load(config)
        feeds = Feeds(*(feed.open(split, config, mesh) for split in splits))
        evaluator = Evaluator(config, feeds, mesh)
        found = evaluator.evaluate(state.variables, args.logit_adjustment)
    distributed.say(report.table(summarise(config, step, found, mesh, None)))
    return 0


if __name__ == "__main__":
    cli.run(main)
