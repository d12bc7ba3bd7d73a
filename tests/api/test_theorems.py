"""What the losses are for: their minimisers on balanced data are Neural Collapse.

Free unit features (and prototypes) are optimized from random starts, without any network, and the
losses are evaluated at an exact simplex equiangular tight frame.
"""

import functools

import jax
import numpy as np
import optax
import pytest
from oracle_losses import WITH_PROTOTYPES, call, make

from hsproto import losses

CLASSES, ROWS_PER_CLASS, DIMS, STARTS = 4, 4, 6, 4
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), ROWS_PER_CLASS)
INPUTS = make(0, (len(LABELS), CLASSES, DIMS), masked=False)._replace(labels=LABELS)
COLLAPSING = ("normface", "decoupled_normface", "ntce", "nonl", "scl", "prototype_softmax")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def simplex(num_classes, dims, seed=0):
    """K unit vectors in D >= K dimensions with all cosines -1/(K-1), float64."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(dims, num_classes)))[0].T
    return unit(basis - basis.mean(axis=0))


def mean_loss(name, temperature, points):
    inputs = INPUTS._replace(temperature=temperature, **points)
    return call(losses, name, inputs).mean()


@functools.cache
def minimised(name, temperature=0.5, steps=1500):
    """Features [S, B, D] and prototypes [S, K, D] where Adam ends from S random starts."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))
    slope = jax.grad(functools.partial(mean_loss, name, temperature))

    def step(_, carry):
        points, state = carry
        updates, state = optimizer.update(slope(points), state)
        return optax.apply_updates(points, updates), state

    @jax.jit
    @jax.vmap
    def descend(points):
        return jax.lax.fori_loop(0, steps, step, (points, optimizer.init(points)))[0]

    rng = np.random.default_rng(1)
    shapes = {"features": (len(LABELS), DIMS), "prototypes": (CLASSES, DIMS)}
    starts = {k: rng.normal(size=(STARTS, *v)).astype(np.float32) for k, v in shapes.items()}
    if name not in WITH_PROTOTYPES:
        del starts["prototypes"]
    return jax.tree.map(lambda x: unit(np.asarray(x, np.float64)), descend(starts))


def off_diagonal_cosines(directions):
    cosines = directions @ directions.swapaxes(-1, -2)
    return cosines[..., ~np.eye(CLASSES, dtype=bool)]


@pytest.mark.parametrize("name", COLLAPSING)
def test_minimising_over_free_features_ends_at_the_simplex(name):
    points = minimised(name)
    by_class = points["features"].reshape(STARTS, CLASSES, ROWS_PER_CLASS, DIMS)
    pairs = by_class[:, :, :, None] - by_class[:, :, None, :]
    instance_alignment = (pairs**2).sum(axis=-1).mean(axis=(1, 2, 3))
    assert instance_alignment.max() < 1e-3
    means = unit(by_class.mean(axis=2))
    np.testing.assert_allclose(off_diagonal_cosines(means), -1 / (CLASSES - 1), atol=0.01)
    if "prototypes" in points:
        prototypes = points["prototypes"]
        np.testing.assert_allclose(off_diagonal_cosines(prototypes), -1 / (CLASSES - 1), atol=0.01)
        assert ((prototypes - means) ** 2).sum(axis=-1).max() < 1e-3  # weight alignment


@pytest.mark.parametrize(
    ("other", "name"), [("scl", "prototype_softmax"), ("prototype_softmax", "scl")]
)
def test_a_minimiser_of_scl_is_one_of_prototype_softmax_and_the_other_way_round(other, name):
    value = jax.jit(jax.value_and_grad(functools.partial(mean_loss, name, 0.5)))
    lowest = min(float(value({"features": x})[0]) for x in minimised(name)["features"])
    for features in minimised(other)["features"]:
        there, slope = value({"features": features})
        np.testing.assert_allclose(there, lowest, rtol=1e-5)
        assert np.abs(slope["features"]).max() < 1e-4


@pytest.mark.parametrize("name", COLLAPSING)
def test_every_loss_is_stationary_at_the_simplex_and_lowest_around_it(name):
    corners = simplex(CLASSES, DIMS)
    at = {"features": corners[LABELS], "prototypes": corners}
    at = jax.tree.map(lambda x: x.astype(np.float32), at)
    value = jax.jit(jax.value_and_grad(functools.partial(mean_loss, name, 0.5)))
    lowest, slopes = value(at)
    assert all(np.abs(slope).max() < 1e-6 for slope in slopes.values())
    rng = np.random.default_rng(2)
    for distance in (0.01, 0.1, 1.0, 10.0):
        for _ in range(5):
            near = {k: v + distance * rng.normal(size=v.shape) for k, v in at.items()}
            assert value(jax.tree.map(np.float32, near))[0] > lowest


def closed_form(name, n, num_classes, temperature):
    """The loss at u_i = w_y on an exact simplex, n rows a class, in float64."""
    a = num_classes / ((num_classes - 1) * temperature)
    if name == "normface":
        return np.log1p((num_classes - 1) * np.exp(-a))
    if name == "decoupled_normface":
        return np.log(num_classes - 1) - a
    if name == "ntce":
        return np.log(n) + np.log1p((num_classes - 1) * np.exp(-a))
    if name == "nonl":
        return np.log(n * (num_classes - 1)) - a
    if n == 1:  # SCL and prototype softmax with nothing but other classes
        return np.log(num_classes - 1) - a
    return np.log(n - 1 + n * (num_classes - 1) * np.exp(-a))


@pytest.mark.parametrize("name", COLLAPSING)
def test_losses_at_an_exact_simplex_equal_their_closed_forms(name):
    value = jax.jit(functools.partial(call, losses, name))
    for num_classes, n, temperature in [
        (2, 3, 0.01),  # logits differ by 200: a sum minus a part of it would be nothing
        (2, 1, 0.01),
        (10, 4, 0.01),
        (10, 4, 0.1),
        (100, 2, 0.07),
        (100, 2, 1.0),
    ]:
        labels = np.repeat(np.arange(num_classes, dtype=np.int32), n)
        corners = simplex(num_classes, num_classes + 2).astype(np.float32)
        inputs = INPUTS._replace(
            features=3 * corners[labels],
            prototypes=corners,
            labels=labels,
            where=None,
            temperature=np.float32(temperature),
        )
        found = value(inputs)
        if name == "scl" and n == 1:
            assert not found.valid.any()
            continue
        assert found.valid.all()
        right = closed_form(name, n, num_classes, temperature)
        np.testing.assert_allclose(found.values, right, rtol=1e-5, atol=5e-7 / temperature)


def test_scl_and_prototype_softmax_agree_wherever_classes_are_collapsed():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(CLASSES, DIMS)).astype(np.float32)[LABELS]
    inputs = INPUTS._replace(features=features)
    values = jax.jit(lambda name: call(losses, name, inputs).values, static_argnums=0)
    np.testing.assert_allclose(values("scl"), values("prototype_softmax"), rtol=1e-5, atol=1e-5)


def test_dot_regression_is_zero_at_its_fixed_simplex():
    corners = simplex(CLASSES, DIMS).astype(np.float32)
    inputs = INPUTS._replace(features=5 * corners[LABELS], prototypes=2 * corners)
    np.testing.assert_allclose(call(losses, "dot_regression", inputs).values, 0, atol=1e-10)
