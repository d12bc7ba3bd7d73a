"""A scikit-learn classifier on features: an embedding and class prototypes, trained by any loss."""

import functools
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from numpy.typing import ArrayLike
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from hsproto import losses
from hsproto.core.nearest import MOST_SCORES
from hsproto.core.simplex import simplex_etf
from hsproto.methods import LOSSES, METHODS

# Rows, features and dimensions are filled up to powers of two from here on, so that small data sets
# of any shape share a compiled program.
LEAST_ROWS, LEAST_DIMS = 512, 16
DEFAULT_DIMS = (16, 128)  # bounds of the default of embedding_dim
STEPS, EPOCHS = 1000, (20, 100)  # the default of epochs: that many steps, within these bounds

_adam = optax.scale_by_adam()


class PrototypeClassifier(
    ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator
):
    """Classifies rows of features by the nearest class prototype on the unit hypersphere.

    Features are standardized, pass hidden layers with ReLU, if any, and a linear layer to the
    embedding. The layers and the prototypes are trained by AdamW with a cosine schedule; the same
    data and seed give the same classifier.

    Args:
        loss: A loss of `hsproto.losses`. `scl` and `prototype_softmax` train the embedding alone;
            prototypes are then the directions of the class means. `dot_regression` has fixed
            prototypes. `cross_entropy` has weights of any length and a bias in place of prototypes.
        temperature: Divides the cosines, in the loss and in `decision_function`.
        hidden_layers: Widths of the hidden layers; (): a linear embedding.
        embedding_dim: Dimensions of the embedding; None: as many as features, within 16 and 128,
            and at least as many as classes.
        epochs: Passes over the rows; None: those of 1,000 steps, at least 20 and at most 100.
        batch_size: Rows of a step; fewer where there are fewer.
        learning_rate: Of the first step.
        weight_decay: Of AdamW.
        seed: Of the initial values and of the order of the rows.

    Attributes:
        classes_: [K] the classes, sorted.
        prototypes_: float64 [K, d] prototypes; of unit length, but for `cross_entropy`.
        n_epochs_: Epochs trained.
        loss_: The mean loss in the last epoch.
        n_features_in_: D, and `feature_names_in_` where X is a data frame.

    Example:
        >>> import numpy as np
        >>> from hsproto import PrototypeClassifier
        >>> X = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]])
        >>> classifier = PrototypeClassifier().fit(X, ["up", "up", "right", "right"])
        >>> classifier.predict([[0.2, 2.0]]).tolist()
        ['up']
    """

    def __init__(
        self,
        loss: str = "nonl",
        *,
        temperature: float = 0.1,
        hidden_layers: Sequence[int] = (256,),
        embedding_dim: int | None = None,
        epochs: int | None = None,
        batch_size: int = 512,
        learning_rate: float = 0.01,
        weight_decay: float = 1e-4,
        seed: int = 0,
    ):
        self.loss = loss
        self.temperature = temperature
        self.hidden_layers = hidden_layers
        self.embedding_dim = embedding_dim
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.seed = seed

    def fit(self, X: ArrayLike, y: ArrayLike) -> "PrototypeClassifier":
        """Train on features [N, D] and classes [N], numbers or strings.

        Raises:
            ValueError: A parameter, X or y is not as it must be; y has fewer than two classes.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            only = _plain(self.classes_[0])
            raise ValueError(f"y holds 1 class ({only!r}); at least two are needed")
        self._mean, self._scale = _statistics(X)
        self._train(self._standardized(X), labels)
        # Sums of unit embeddings, from which `partial_fit` goes on.
        self._sums = _class_sums(self.transform(X), labels, len(self.classes_))
        if METHODS[self.loss].encoder:
            self.prototypes_ = _unit(self._sums)
        return self

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None
    ) -> "PrototypeClassifier":
        """Add rows, of new classes too, without training; the first call is a `fit`.

        The prototype of each class in y becomes the direction of the mean of the embeddings of all
        its rows so far. No other prototype changes. An embedding that was trained to collapse keeps
        little of what would tell new classes apart; a linear one (hidden_layers=()) keeps more.

        Args:
            X: Features [N, D].
            y: Classes [N].
            classes: The classes that y may hold; None: any. `classes_` grows as rows come.

        Raises:
            ValueError: As `fit`; or y holds none of `classes`; or the loss is `cross_entropy`, for
                which class means are no weights.
        """
        if classes is not None:
            unknown = np.setdiff1d(np.asarray(y).ravel(), np.asarray(classes))
            if unknown.size:
                raise ValueError(f"y holds {_plain(unknown[0])!r}, which is not one of classes")
        if not hasattr(self, "prototypes_"):
            return self.fit(X, y)
        self._check_on_sphere("partial_fit")
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), reset=False)
        check_classification_targets(y)
        of_rows, labels = np.unique(y, return_inverse=True)
        if (of_rows.dtype.kind in "US") != (self.classes_.dtype.kind in "US"):
            given, known = _plain(of_rows[0]), _plain(self.classes_[0])
            raise ValueError(f"y holds {given!r}, but classes are like {known!r}")
        sums = _class_sums(self.transform(X), labels, len(of_rows))
        everything = np.union1d(self.classes_, of_rows)
        old, new = (np.searchsorted(everything, c) for c in (self.classes_, of_rows))
        totals = np.zeros((len(everything), sums.shape[1]))
        prototypes = totals.copy()
        totals[old], prototypes[old] = self._sums, self.prototypes_
        totals[new] += sums
        prototypes[new] = _unit(totals[new])
        self.classes_, self._sums, self.prototypes_ = everything, totals, prototypes
        return self

    def add_class(self, name: Any, X: ArrayLike) -> "PrototypeClassifier":
        """Add a class by its features [n, D], without training.

        Raises:
            ValueError: As `partial_fit`; or there is a class of that name.
        """
        check_is_fitted(self)
        if name in self.classes_.tolist():
            raise ValueError(f"there is a class {name!r} already; partial_fit adds rows to it")
        return self.partial_fit(X, [name] * len(X))

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return the embeddings [N, d], of unit length, but for `cross_entropy`."""
        embedded = self._standardized(self._validated(X))
        for i, (weights, bias) in enumerate(self._layers):
            if i:
                embedded = np.maximum(embedded, 0)
            embedded = embedded @ weights.astype(embedded.dtype) + bias.astype(embedded.dtype)
        return embedded if self.loss == "cross_entropy" else _unit(embedded)

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Return logits [N, K]: cosines over temperature, or those of the linear `cross_entropy`.

        Of two classes: the logit of the second less that of the first, [N].
        """
        logits = self._logits(self.transform(X))
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Return the softmax of the logits, [N, K]."""
        logits = self._logits(self.transform(X))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the class of each row, [N]."""
        embedded = self.transform(X)
        rows = max(1, MOST_SCORES // len(self.classes_))  # whose logits are held at a time
        blocks = [embedded[start : start + rows] for start in range(0, len(embedded), rows)]
        nearest = np.concatenate([np.argmax(self._logits(block), axis=1) for block in blocks])
        return self.classes_[nearest]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        return self.prototypes_.shape[1]

    def _validated(self, X):
        check_is_fitted(self)
        return validate_data(self, X, dtype=(np.float64, np.float32), reset=False)

    def _standardized(self, X):
        return ((X - self._mean) / self._scale).astype(X.dtype)

    def _logits(self, embedded):
        logits = embedded @ self.prototypes_.T.astype(embedded.dtype)
        if self.loss == "cross_entropy":
            return logits + self._bias.astype(embedded.dtype)
        return logits / self.temperature

    def _train(self, X, labels):
        rows, num_classes = len(X), len(self.classes_)
        dims = self._dims(X.shape[1], num_classes)
        generator = np.random.default_rng(self.seed)
        params, fixed = self._initial(generator, X.shape[1], dims, num_classes)
        size = min(self.batch_size, _bucket(rows, LEAST_ROWS))
        steps = math.ceil(rows / size)
        self.n_epochs_ = self.epochs or int(np.clip(math.ceil(STEPS / steps), *EPOCHS))
        features = np.zeros((_bucket(rows, LEAST_ROWS), _bucket(X.shape[1], LEAST_DIMS)), "f4")
        features[:rows, : X.shape[1]] = X
        data = jnp.asarray(features), jnp.asarray(_padded(labels, len(features), -1), jnp.int32)
        state = params, _adam.init(params)
        total = self.n_epochs_ * steps
        for epoch in range(self.n_epochs_):
            order = _padded(generator.permutation(rows), steps * size, -1).reshape(steps, size)
            done = (epoch * steps + np.arange(steps)) / total
            rates = self.learning_rate * np.cos(np.pi / 2 * done) ** 2
            per_step = jnp.asarray(order, jnp.int32), jnp.asarray(rates, jnp.float32)
            state, mean_loss = _epoch(
                state, fixed, data, per_step,
                jnp.float32(self.temperature), jnp.float32(self.weight_decay), self.loss,
                num_classes,
            )  # fmt: skip
        self.loss_ = float(mean_loss)
        if not math.isfinite(self.loss_):
            raise ValueError(f"the loss became {self.loss_}: take a lower learning_rate")
        self._keep(jax.device_get(state[0]), fixed, X.shape[1], dims)

    def _dims(self, features, num_classes):
        dims = self.embedding_dim or max(num_classes, int(np.clip(features, *DEFAULT_DIMS)))
        if self.loss == "dot_regression" and dims < num_classes - 1:
            raise ValueError(
                f"embedding_dim={dims}: fixed prototypes of {num_classes} classes need "
                f"{num_classes - 1} dimensions"
            )
        return dims

    def _initial(self, generator, features, dims, num_classes):
        """(trained parameters, fixed prototypes or None); what fills up the shapes is zero."""
        widths = [features, *self.hidden_layers, dims]
        padded = [_bucket(width, LEAST_DIMS) for width in widths]

        def uniform(rows, columns, fan_in, shape):
            values = np.zeros(shape, np.float32)
            values[:rows, :columns] = generator.uniform(-1, 1, (rows, columns)) * fan_in**-0.5
            return jnp.asarray(values)

        params = {
            "layers": [
                (
                    uniform(widths[i], widths[i + 1], widths[i], padded[i : i + 2]),
                    uniform(1, widths[i + 1], widths[i], (1, padded[i + 1]))[0],
                )
                for i in range(len(widths) - 1)
            ]
        }
        if self.loss == "dot_regression":
            key = jax.random.key(self.seed % 2**32)
            etf = np.zeros((num_classes, padded[-1]), np.float32)
            etf[:, :dims] = simplex_etf(key, num_classes, dims)
            return params, jnp.asarray(etf)
        if not METHODS[self.loss].encoder:
            shape = (num_classes, padded[-1])
            params["prototypes"] = uniform(num_classes, dims, dims, shape)
        if self.loss == "cross_entropy":
            params["bias"] = jnp.zeros(num_classes, jnp.float32)
        return params, None

    def _keep(self, params, fixed, features, dims):
        widths = [features, *self.hidden_layers, dims]
        self._layers = [
            (weights[: widths[i], : widths[i + 1]].astype(float), bias[: widths[i + 1]])
            for i, (weights, bias) in enumerate(params["layers"])
        ]
        prototypes = params.get("prototypes", np.zeros((0, dims)) if fixed is None else fixed)
        prototypes = np.asarray(prototypes, float)[:, :dims]
        self._bias = params.get("bias")
        self.prototypes_ = prototypes if self._bias is not None else _unit(prototypes)

    def _check_on_sphere(self, method):
        if self.loss == "cross_entropy":
            raise ValueError(
                f"{method} after fit makes prototypes of class means, and the linear classifier of "
                "loss='cross_entropy' has none: use another loss, e.g. 'normface'"
            )

    def _check_parameters(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r} must be one of {', '.join(LOSSES)}")
        for name in ("temperature", "learning_rate"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r} must be a positive number")
        if not isinstance(self.weight_decay, numbers.Real) or not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay!r} must be zero or positive")
        if isinstance(self.hidden_layers, str) or not isinstance(self.hidden_layers, Iterable):
            raise ValueError(f"hidden_layers={self.hidden_layers!r} must be widths, e.g. (256,)")
        counts = [(f"hidden_layers={self.hidden_layers!r}", width) for width in self.hidden_layers]
        counts.append((f"batch_size={self.batch_size!r}", self.batch_size))
        for name in ("embedding_dim", "epochs"):
            if getattr(self, name) is not None:
                counts.append((f"{name}={getattr(self, name)!r}", getattr(self, name)))
        for text, value in counts:
            if not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"{text} must be positive and whole")
        if self.batch_size < 2 and METHODS[self.loss].instances:
            raise ValueError(f"batch_size=1: loss={self.loss!r} compares the rows of a batch")
        if not isinstance(self.seed, numbers.Integral) or self.seed < 0:
            raise ValueError(f"seed={self.seed!r} must be zero or a positive whole number")


def _plain(value):
    """A class as Python prints it: 3 for np.int64(3)."""
    return value.item() if isinstance(value, np.generic) else value


def _embed(layers, rows):
    for i, (weights, bias) in enumerate(layers):
        rows = jax.nn.relu(rows) if i else rows
        rows = jnp.matmul(rows, weights, precision=lax.Precision.HIGHEST) + bias
    return rows


def _batch_loss(params, fixed, rows, labels, temperature, name, num_classes):
    embedded = _embed(params["layers"], rows)
    loss, where = getattr(losses, name), labels >= 0
    options = {"temperature": temperature} if METHODS[name].temperature else {}
    if name == "scl":
        return loss(embedded, labels, where=where, **options).mean()
    if name == "prototype_softmax":
        return loss(embedded, labels, num_classes=num_classes, where=where, **options).mean()
    prototypes = params.get("prototypes", fixed)
    if name == "cross_entropy":
        options["bias"] = params["bias"]
    return loss(embedded, prototypes, labels, where=where, **options).mean()


@functools.partial(jax.jit, static_argnames=("name", "num_classes"), donate_argnums=0)
def _epoch(state, fixed, data, per_step, temperature, weight_decay, name, num_classes):
    """One pass: ((parameters, AdamW's state), the mean loss of its batches)."""
    features, labels = data

    def step(state, of_step):
        (params, adam), (rows, rate) = state, of_step
        batch = features[rows], jnp.where(rows >= 0, labels[rows], -1)
        loss, gradients = jax.value_and_grad(_batch_loss)(
            params, fixed, *batch, temperature, name, num_classes
        )
        updates, adam = _adam.update(gradients, adam)
        move = jax.tree.map(lambda p, u: p - rate * (u + weight_decay * p), params, updates)
        return (move, adam), loss

    state, of_steps = lax.scan(step, state, per_step)
    return state, jnp.mean(of_steps)


def _statistics(X):
    """Mean and standard deviation of each feature, 1 where it does not vary."""
    X = X.astype(np.float64)
    scale = X.std(axis=0)
    noise = scale <= 1e-12 * np.abs(X).max(axis=0)
    return X.mean(axis=0), np.where(noise, 1.0, scale)


def _class_sums(embedded, labels, num_classes):
    sums = np.zeros((num_classes, embedded.shape[1]))
    np.add.at(sums, labels, embedded)
    return sums


def _unit(rows):
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths == 0, 1, lengths)


def _bucket(number, least):
    return max(least, 1 << (number - 1).bit_length())


def _padded(values, length, fill):
    return np.concatenate([values, np.full(length - len(values), fill, values.dtype)])
