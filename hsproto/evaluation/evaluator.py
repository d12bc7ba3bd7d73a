"""Accuracy and geometry of a state of a run, on both splits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsproto import geometry
from hsproto import prototypes as fixed
from hsproto.core.numerics import l2_normalize
from hsproto.data import augment
from hsproto.evaluation import accuracy
from hsproto.models import classifier as classifier_lib
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.runs import snapshots
from hsproto.training import objective


class Loaders(NamedTuple):
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


class Evaluator:
    """Measures a run's states; what it compiles is compiled once.

    config is resolved; feeds are a run's `Feeds`.
    """

    def __init__(self, config, feeds, mesh):
        self._config, self._feeds, self._mesh = config, feeds, mesh
        model = model_lib.build(config, config.num_classes)
        preprocess = augment.make_preprocess(config)
        whole, split = mesh_lib.replicated(mesh), mesh_lib.over_batch(mesh)

        def embed(variables, images):
            return model_lib.forward(model, variables, preprocess(images), train=False)[0]

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
        weights, bias = classifier_lib.classifier(variables)
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
        means = fixed.fit(
            train.projections, train.labels, num_classes=config.num_classes, where=train.where
        )
        weights = means if weights is None else weights
        counts = np.bincount(train.labels[train.where], minlength=config.num_classes)
        imbalanced = config.imbalance_factor < 1 or accuracy.is_imbalanced(counts)
        adjusted = None
        if imbalanced and accuracy.can_adjust(config, counts):
            own = 0.0 if bias is None else bias
            adjusted = own - adjustment * objective.log_prior(counts)
        metrics, per_class, by_run = {}, {"train_images": counts.tolist()}, {}
        for name, split in (("test", test), ("train", train)):
            predicted = {
                "accuracy": classifier_lib.predict(config, split.projections, weights, bias),
                "accuracy_class_means": fixed.predict(split.projections, means),
            }
            if adjusted is not None:
                predicted["accuracy_adjusted"] = classifier_lib.predict(
                    config, split.projections, weights, adjusted
                )
            predicted = {key: self._on_host(labels) for key, labels in predicted.items()}
            by_run[name] = predicted["accuracy"]
            found, by_class = _accuracies(split, predicted, config.num_classes)
            per_class[f"{name}_accuracy"] = by_class["accuracy"].tolist()
            if imbalanced:
                found |= accuracy.by_shots(by_class, counts)
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
            features, weights = l2_normalize(features), l2_normalize(weights)
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
        by_class[name] = accuracy.accuracy_by_class(found, labels, num_classes)
    return whole, by_class
