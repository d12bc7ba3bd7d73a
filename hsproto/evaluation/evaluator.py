"""Accuracy and geometry of a state of a run, on both splits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from hsproto import geometry
from hsproto.core.numerics import l2_normalize
from hsproto.data import augment
from hsproto.data.loader import Loader
from hsproto.evaluation import accuracy, by_class
from hsproto.models import classifier as classifier_lib
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.runs import snapshots
from hsproto.runs.predictions_file import Predicted
from hsproto.training import objective

_MOST_LOOKED_AT = 20_000  # test images of a folder, files that one can look at: mistakes are listed


class Loaders(NamedTuple):
    """The loaders of the training and the test set."""

    train: Loader
    test: Loader


class Embedded(NamedTuple):
    """A whole split as features: global arrays split over the mesh, labels on the host.

    `where` is False on the rows that only pad the last batch.
    """

    features: jax.Array  # float32 [N, D], of the encoder
    projections: jax.Array  # float32 [N, d], of SCL's head; else the features
    labels: np.ndarray
    where: np.ndarray


class Evaluation(NamedTuple):
    """Accuracy and geometry of a state.

    Attributes:
        metrics: {"test": {...}, "train": {...}}.
        prototypes: float32 [K, D], those that predict.
        class_means: float32 [K, D], of the training set, of unit length.
        per_class: of imbalanced training sets, lists [K] of "train_images", "test_accuracy" and
            "train_accuracy".
        snapshot: of test images, where one was requested.
        predictions: of the test images.
    """

    metrics: dict[str, dict[str, float]]
    prototypes: np.ndarray
    class_means: np.ndarray
    per_class: dict[str, list] | None = None
    snapshot: snapshots.Snapshot | None = None
    predictions: Predicted | None = None


class _Classifiers(NamedTuple):
    """The classifiers whose accuracy is measured; geometry is that of `weights` and `bias`."""

    means: jax.Array
    weights: jax.Array
    bias: jax.Array | None
    adjusted_bias: jax.Array | None  # of accuracy_adjusted, where that is defined


class Evaluator:
    """Measures states of a run; programs are compiled once.

    Args:
        config: resolved.
        loaders: of the splits that `evaluate` measures; None where other methods are called.
    """

    def __init__(self, config: Any, loaders: Loaders | None, mesh: Mesh):
        self._config, self._loaders, self._mesh = config, loaders, mesh
        model = model_lib.build(config, config.num_classes)
        preprocess = augment.make_preprocess(config)
        whole, split = mesh_lib.replicated(mesh), mesh_lib.over_batch(mesh)

        def embed(variables, images):
            return model_lib.forward(model, variables, preprocess(images), train=False)[0]

        def place(columns, outputs, j):
            return jax.tree.map(lambda all_, one: all_.at[:, j].set(one), columns, outputs)

        # None: prototypes as they are split.
        variables = None if mesh_lib.splits_classes(mesh) else whole
        self.embed = jax.jit(embed, in_shardings=(variables, split), out_shardings=split)
        self._empty = jax.jit(lambda shape: jnp.zeros(shape), static_argnums=0, out_shardings=split)
        self._place = jax.jit(place, donate_argnums=0)
        self._flat = jax.jit(lambda x: x.reshape(-1, x.shape[-1]), out_shardings=split)
        self._gather = jax.jit(lambda x: x, out_shardings=whole)
        self._margins = jax.jit(_margins, out_shardings=whole)
        self._take = jax.jit(lambda x, rows: x[rows], out_shardings=whole)

    def evaluate(
        self,
        variables: Any,
        snapshot_points: int = 0,
        poll: Callable[[int, int], Any] = lambda done, total: None,
    ) -> Evaluation:
        """Measure accuracy and geometry on both splits, as exact sums over their images.

        The classifier is the run's own or, for an encoder loss, the fixed prototypes: directions of
        the class means, over the training set, of the outputs of SCL's head. `accuracy_class_means`
        is that of the same training-free classifier, for any run. `snapshot_points` is as in
        `measure`; `poll` is called after each batch with the images that are done and all of them,
        and may raise to end the evaluation.
        """
        total, before, splits = sum(map(len, self._loaders)), 0, []
        for loader in self._loaders:
            splits.append(
                self.embed_all(variables, loader, lambda done, b=before: poll(b + done, total))
            )
            before += len(loader)
        train, test = splits
        weights, bias = classifier_lib.classifier(variables)
        return self.measure(
            self._config, train, test, weights, bias, snapshot_points=snapshot_points
        )

    def embed_all(
        self,
        variables: Any,
        loader: Loader,
        after_batch: Callable[[int], Any] | None = None,
    ) -> Embedded:
        """Embed all images of a loader; rows are in no particular order.

        `after_batch` is called with the number of images that are done.
        """
        size, num_images = self._config.eval_batch_size, len(loader)
        batches = -(-num_images // size)
        # Batch j fills column j of [size, batches, D]: each device writes to its own rows only.
        columns, labels, where = None, [], []
        for j, batch in enumerate(loader.in_order(size)):
            outputs = self.embed(variables, batch["image"])
            if columns is None:
                columns = jax.tree.map(lambda x: self._empty((size, batches, x.shape[1])), outputs)
            columns = self._place(columns, outputs, j)
            labels.append(self._on_host(batch["label"]))
            where.append(self._on_host(batch["where"]))
            if after_batch:
                after_batch(min((j + 1) * size, num_images))
        return Embedded(
            *map(self._flat, columns), np.stack(labels, 1).ravel(), np.stack(where, 1).ravel()
        )

    def measure(
        self,
        config: Any,
        train: Embedded,
        test: Embedded,
        weights: jax.Array | None,
        bias: jax.Array | None,
        adjustment: float = 1.0,
        snapshot_points: int = 0,
    ) -> Evaluation:
        """Measure a classifier on embedded splits.

        Geometry is that of unit features and prototypes if the loss of `config` normalizes them;
        for cross entropy, that of features and weights as they are.

        On imbalanced training sets accuracy is measured per class and by shots too. Where the loss
        was a softmax over classes that did not adjust its logits, `accuracy_adjusted` is that of
        logits adjusted afterwards.

        Args:
            weights: of the classifier; None: the fixed prototypes.
            adjustment: strength of that adjustment: the factor of the log class frequencies, which
                is subtracted from the logits.
            snapshot_points: number of test images of which a snapshot is taken.
        """
        means = by_class.fit(
            self._mesh, train.projections, train.labels, config.num_classes, train.where
        )
        counts = np.bincount(train.labels[train.where], minlength=config.num_classes)
        imbalanced = config.imbalance_factor < 1 or accuracy.is_imbalanced(counts)
        adjusted_bias = None
        if imbalanced and accuracy.can_adjust(config, counts):
            own_bias = 0.0 if bias is None else bias
            adjusted_bias = own_bias - adjustment * objective.log_prior(counts)
        classifiers = _Classifiers(
            means, means if weights is None else weights, bias, adjusted_bias
        )
        predicted, metrics = {}, {}
        per_class = {"train_images": counts.tolist()}
        for name, split in (("test", test), ("train", train)):
            by_classifier = self._predict(config, split, classifiers)
            accuracies, of_classes = _accuracies(split, by_classifier, config.num_classes)
            shots = accuracy.by_shots(of_classes, counts) if imbalanced else {}
            measures = accuracies | shots | self._geometry(config, split, classifiers)
            metrics[name] = {key: float(value) for key, value in measures.items()}
            predicted[name] = by_classifier["accuracy"]
            per_class[f"{name}_accuracy"] = of_classes["accuracy"].tolist()
        evaluation = Evaluation(
            metrics,
            self._on_host(classifiers.weights),
            self._on_host(means),
            per_class if imbalanced else None,
            predictions=self._predictions(config, test, predicted["test"], classifiers.weights),
        )
        if not snapshot_points:
            return evaluation
        snapshot = self._snapshot(test, predicted["test"], evaluation, bias, snapshot_points)
        return evaluation._replace(snapshot=snapshot)

    def _predict(self, config, split, classifiers):
        """{name of the accuracy: predicted labels} of the classifiers."""
        weights, predict = classifiers.weights, by_class.predict
        rows = config, self._mesh, split.projections
        predicted = {
            "accuracy": predict(*rows, weights, classifiers.bias),
            "accuracy_class_means": predict(*rows, classifiers.means, by_cosine=True),
        }
        if classifiers.adjusted_bias is not None:
            predicted["accuracy_adjusted"] = predict(*rows, weights, classifiers.adjusted_bias)
        return {name: self._on_host(labels) for name, labels in predicted.items()}

    def _geometry(self, config, split, classifiers):
        features, weights = split.projections, classifiers.weights
        if config.loss != "cross_entropy":
            features, weights = l2_normalize(features), l2_normalize(weights)
        labels, bias, num_classes = split.labels, classifiers.bias, config.num_classes
        if num_classes > by_class.MOST_COMPARED:
            labels, chosen = by_class.compared(labels, num_classes)
            num_classes, weights = len(chosen), weights[chosen]
            bias = None if bias is None else bias[chosen]
        return geometry.neural_collapse(
            features, labels, weights, num_classes=num_classes, bias=bias, where=split.where
        )

    def _predictions(self, config, test, predicted, weights):
        count, margins = int(test.where.sum()), None
        places = self._places(test, np.arange(count))
        if config.source == "folder" and count <= _MOST_LOOKED_AT:
            labels = np.where(test.where, test.labels, 0)
            margins = np.asarray(self._margins(test.projections, weights, labels, predicted))
            margins = margins[places]
        return Predicted(test.labels[places], predicted[places], margins)

    def _places(self, split, rows):
        """Where `embed_all` put the rows of a source: it fills [size, batches] by columns."""
        size = self._config.eval_batch_size
        return rows % size * (len(split.labels) // size) + rows // size

    def _snapshot(self, test, predicted, evaluation, bias, count):
        in_order = test.labels[self._places(test, np.arange(len(test.labels)))]
        rows, classes = snapshots.choose(in_order, count)
        places = self._places(test, rows)
        return snapshots.Snapshot(
            rows=rows,
            labels=test.labels[places],
            features=np.asarray(self._take(test.projections, places)),
            predicted=predicted[places].astype(np.int32),
            classes=classes,
            prototypes=evaluation.prototypes[classes],
            means=evaluation.class_means[classes],
            bias=None if bias is None else self._on_host(bias)[classes],
        )

    def _on_host(self, array):
        if array.is_fully_addressable:  # without a copy on every device
            return np.asarray(array)
        return np.asarray(self._gather(array))


def _margins(features, weights, labels, predicted):
    """Cosine to the predicted class, if any, less that to the own one, float32 [N]."""
    features, weights = l2_normalize(features), l2_normalize(weights)
    margins = jnp.sum(features * (weights[predicted] - weights[labels]), axis=1)
    return jnp.where(predicted < 0, jnp.nan, margins)


def _accuracies(split, predicted, num_classes):
    """({name: accuracy}, {name: accuracy of each class [K]}) of {name: predicted labels}."""
    labels, accuracies, by_class = split.labels[split.where], {}, {}
    for name, predicted_labels in predicted.items():
        predicted_labels = predicted_labels[split.where]
        accuracies[name] = np.mean(predicted_labels == labels)
        by_class[name] = accuracy.accuracy_by_class(predicted_labels, labels, num_classes)
    return accuracies, by_class
