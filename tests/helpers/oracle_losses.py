"""The losses in float64 NumPy, one anchor at a time, as the equations are printed.

Nothing here is clever: NTCE and NONL walk the whole batch for every anchor, SCL walks all pairs.
Every function also takes complex features, so that `gradient` can differentiate it by complex
steps: f(x + ih).imag / h has no cancellation and is exact to the last digits of float64.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

NAMES = (
    "cross_entropy",
    "normface",
    "decoupled_normface",
    "ntce",
    "nonl",
    "scl",
    "prototype_softmax",
    "dot_regression",
)
WITH_TEMPERATURE = tuple(n for n in NAMES if n not in ("cross_entropy", "dot_regression"))
WITH_PROTOTYPES = tuple(n for n in NAMES if n not in ("scl", "prototype_softmax"))
OVER_THE_BATCH = ("ntce", "nonl", "scl", "prototype_softmax")


class Inputs(NamedTuple):
    """Everything that any of the losses takes; `call` hands each one what it needs."""

    features: object
    prototypes: object
    bias: object
    labels: object
    where: object
    temperature: object


def arguments(name):
    """The arguments that the loss `name` is differentiated by."""
    found = ["features"]
    found += ["prototypes"] if name in WITH_PROTOTYPES else []
    found += ["bias"] if name == "cross_entropy" else []
    found += ["temperature"] if name in WITH_TEMPERATURE else []
    return found


def make(seed, shape, temperature=0.2, kind="random", masked=True, dtype=np.float32):
    """A batch: classes may be absent, labels out of range, rows masked, features collapsed."""
    rows, num_classes, dims = shape
    rng = np.random.default_rng(seed)
    present = rng.permutation(num_classes)[: rng.integers(1, num_classes + 1)]
    labels = rng.choice(present, rows)
    prototypes = rng.normal(size=(num_classes, dims)) * rng.uniform(0.5, 2, (num_classes, 1))
    features = rng.normal(size=(rows, dims)) * rng.uniform(0.5, 2, (rows, 1))
    if kind == "collapsed":
        features = prototypes[labels] + 0.05 * features
    elif kind == "opposed":
        features = 0.05 * features - prototypes[labels]
    if masked:
        labels = np.where(rng.random(rows) < 0.1, rng.choice([-1, num_classes], rows), labels)
    where = rng.random(rows) < 0.8 if masked else np.ones(rows, bool)
    bias = rng.normal(size=num_classes).astype(np.float32)
    labels, temperature = labels.astype(np.int32), np.float32(temperature)
    return Inputs(
        features.astype(dtype), prototypes.astype(dtype), bias, labels, where, temperature
    )


def call(losses, name, inputs, **options):
    """The loss `name` of the module `losses` (this one, or the library) on `inputs`."""
    features, prototypes, bias, labels, where, temperature = inputs
    loss = getattr(losses, name)
    if name == "cross_entropy":
        return loss(features, prototypes, labels, bias=bias, where=where)
    if name == "dot_regression":
        return loss(features, prototypes, labels, where=where)
    if name in OVER_THE_BATCH:
        options = {"temperature": temperature, "where": where, **options}
        if name == "scl":
            return loss(features, labels, **options)
        if name == "prototype_softmax":
            return loss(features, labels, num_classes=len(prototypes), **options)
        return loss(features, prototypes, labels, **options)
    return loss(features, prototypes, labels, temperature=temperature, where=where)


class Anchors(NamedTuple):
    """Value of each anchor, and which anchors have one."""

    values: np.ndarray
    valid: np.ndarray

    def mean(self):
        return self.values[self.valid].mean() if self.valid.any() else self.values.sum() * 0


def _unit(rows):
    rows = np.asarray(rows) if np.iscomplexobj(rows) else np.asarray(rows, np.float64)
    zero = (rows == 0).all(axis=1, keepdims=True)
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return rows / np.where(zero, 1, lengths)


def _lse(logits):
    logits = np.asarray(logits)
    largest = logits.real.max()
    return np.log(np.exp(logits - largest).sum()) + largest


def _per_anchor(rows, value_of):
    """Calls value_of(i) for the rows that count; None means that anchor i has no value."""
    found = [value_of(i) if row else None for i, row in enumerate(rows)]
    valid = np.array([value is not None for value in found], bool)
    return Anchors(np.array([0.0 if value is None else value for value in found]), valid)


def _rows(labels, num_classes, where):
    rows = (labels >= 0) & (labels < num_classes)
    return rows if where is None else rows & where


def _clean(features, rows):
    """Zeros in the rows that do not count, so that garbage in them cannot spread."""
    return np.where(rows[:, None], features, 0)


def cross_entropy(features, prototypes, labels, *, bias=None, where=None):
    rows = _rows(labels, len(prototypes), where)
    logits = _clean(features, rows) @ prototypes.T + (0 if bias is None else bias)
    return _per_anchor(rows, lambda i: -logits[i, labels[i]] + _lse(logits[i]))


def _cosines(features, prototypes, labels, where):
    rows = _rows(labels, len(prototypes), where)
    return rows, _unit(_clean(features, rows)) @ _unit(prototypes).T


def normface(features, prototypes, labels, *, temperature, where=None):
    rows, cosines = _cosines(features, prototypes, labels, where)
    s = cosines / temperature
    return _per_anchor(rows, lambda i: -s[i, labels[i]] + _lse(s[i]))


def decoupled_normface(features, prototypes, labels, *, temperature, where=None):
    rows, cosines = _cosines(features, prototypes, labels, where)
    s = cosines / temperature

    def value(i):
        others = [c for c in range(len(prototypes)) if c != labels[i]]
        return -s[i, labels[i]] + _lse(s[i, others]) if others else None

    return _per_anchor(rows, value)


def ntce(features, prototypes, labels, *, temperature, where=None):
    rows, cosines = _cosines(features, prototypes, labels, where)
    s = cosines / temperature
    return _per_anchor(rows, lambda i: -s[i, labels[i]] + _lse(s[rows, labels[i]]))


def nonl(features, prototypes, labels, *, temperature, where=None):
    rows, cosines = _cosines(features, prototypes, labels, where)
    s = cosines / temperature

    def value(i):
        negatives = rows & (labels != labels[i])
        return -s[i, labels[i]] + _lse(s[negatives, labels[i]]) if negatives.any() else None

    return _per_anchor(rows, value)


def scl(features, labels, *, temperature, where=None):
    rows = _rows(labels, np.inf, where)
    a = _unit(_clean(features, rows))
    s = a @ a.T / temperature

    def value(i):
        others = rows & (np.arange(len(rows)) != i)
        positives = others & (labels == labels[i])
        return -s[i, positives].mean() + _lse(s[i, others]) if positives.any() else None

    return _per_anchor(rows, value)


def prototype_softmax(features, labels, *, num_classes, temperature, where=None):
    rows = _rows(labels, num_classes, where)
    a = _unit(_clean(features, rows))
    classes = [c for c in range(num_classes) if (rows & (labels == c)).any()]
    means = {c: a[rows & (labels == c)].mean(axis=0) for c in classes}
    counts = {c: (rows & (labels == c)).sum() for c in classes}

    def value(i):
        if rows.sum() < 2:
            return None
        # The row's own e^{a.mu} leaves the sum, so its class weighs one less.
        weights = {c: counts[c] - (c == labels[i]) for c in classes}
        terms = [np.log(w) + a[i] @ means[c] / temperature for c, w in weights.items() if w > 0]
        return -(a[i] @ means[labels[i]]) / temperature + _lse(terms)

    return _per_anchor(rows, value)


def dot_regression(features, prototypes, labels, *, where=None):
    rows = _rows(labels, len(prototypes), where)
    u = _unit(_clean(features, rows))
    lengths = np.sqrt((prototypes * prototypes).sum(axis=1))
    return _per_anchor(
        rows, lambda i: 0.5 * (u[i] @ prototypes[labels[i]] - lengths[labels[i]]) ** 2
    )


ORACLE = SimpleNamespace(**{name: globals()[name] for name in NAMES})


def anchors(name, inputs):
    return call(ORACLE, name, inputs)


def gradient(name, inputs, argument):
    """Gradient of the mean over valid anchors with respect to the argument of that name."""
    start = np.asarray(getattr(inputs, argument), np.float64)
    slopes = np.zeros(start.shape)
    for index in np.ndindex(start.shape):
        moved = start.astype(np.complex128)
        moved[index] += 1e-30j
        moved = moved if moved.ndim else moved[()]
        slopes[index] = anchors(name, inputs._replace(**{argument: moved})).mean().imag / 1e-30
    return slopes
