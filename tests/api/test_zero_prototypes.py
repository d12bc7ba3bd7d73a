"""A head that starts at zero trains: a zero row has the gradient of a row of length 1."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle_losses import WITH_TEMPERATURE, call, make

from hsproto import losses

pytestmark = pytest.mark.slow

NAMES = ("normface", "decoupled_normface", "ntce", "nonl")
SHAPES = {"K<B": (16, 5, 6), "K>B": (6, 13, 4)}


@pytest.mark.parametrize("class_block", [None, 3])
@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("name", NAMES)
def test_its_gradient_is_that_of_the_cosines(name, shape, class_block):
    """d(u·w/|w|)/dw of w = 0, by definition, is u: the loss is that of w in place of w/|w|."""
    inputs = make(0, SHAPES[shape], 0.2, masked=False)
    inputs = inputs._replace(labels=np.arange(SHAPES[shape][0], dtype=np.int32) // 2)
    inputs = inputs._replace(where=inputs.labels < SHAPES[shape][1])
    step, zero = 1e-3, 1
    inputs.prototypes[zero] = 0

    def mean(row):
        moved = inputs.prototypes.copy()
        moved[zero] = row
        units = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)
        units[zero] = row
        return oracle_mean(name, inputs, units)

    loss = getattr(losses, name)
    options = dict(temperature=inputs.temperature, where=inputs.where, class_block=class_block)
    slope = jax.grad(lambda w: loss(inputs.features, w, inputs.labels, **options).mean())(
        inputs.prototypes
    )
    right = [
        (mean(step * axis) - mean(-step * axis)) / (2 * step)
        for axis in np.eye(inputs.prototypes.shape[1])
    ]
    assert np.abs(right).max() > 0.01
    np.testing.assert_allclose(slope[zero], right, rtol=1e-3, atol=1e-4)


def oracle_mean(name, inputs, units):
    features, where, labels = inputs.features.astype(float), inputs.where, inputs.labels
    counts = where & (labels >= 0) & (labels < len(units))
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    logits = features @ units.T / float(inputs.temperature)
    values = []
    for i in np.flatnonzero(counts):
        against = {
            "normface": logits[i],
            "decoupled_normface": np.delete(logits[i], labels[i]),
            "ntce": logits[counts, labels[i]],
            "nonl": logits[counts & (labels != labels[i]), labels[i]],
        }[name]
        if len(against):
            values.append(np.logaddexp.reduce(against) - logits[i, labels[i]])
    return np.mean(values)


@pytest.mark.parametrize("name", NAMES)
def test_training_from_zero_ends_where_training_from_random_rows_does(name):
    random = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int32) % 5
    features = random.normal(size=(5, 8))[labels] + 0.3 * random.normal(size=(60, 8))
    loss = functools.partial(getattr(losses, name), features.astype(np.float32))

    @jax.jit
    def step(w):
        value, slope = jax.value_and_grad(lambda w: loss(w, labels, temperature=0.2).mean())(w)
        return value, w - 0.5 * slope

    ends = []
    for start in (np.zeros((5, 8), np.float32), random.normal(size=(5, 8)).astype(np.float32)):
        w = jnp.asarray(start)
        first, _ = step(w)
        for _ in range(1000):
            value, w = step(w)
        assert value < first - 0.1 and np.all(np.isfinite(w))
        ends.append(value)
    np.testing.assert_allclose(ends[0], ends[1], rtol=0.05, atol=0.01)


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_features_of_length_zero_and_masked_rows_get_no_gradient(name):
    inputs = make(1, SHAPES["K<B"], masked=False)
    inputs.features[:2] = 0
    slope = jax.grad(lambda x: call(losses, name, inputs._replace(features=x)).mean())(
        jnp.asarray(inputs.features)
    )
    assert not np.any(slope[:2]) and np.any(slope[2:])
