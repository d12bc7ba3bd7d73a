"""In JAX's 64-bit mode float64 inputs give float64 results, exact to float64; float32 stays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle_geometry
import pytest
from jax.test_util import check_grads
from oracle_losses import NAMES, WITH_PROTOTYPES, anchors, arguments, call, gradient, make

from hsproto import geometry, losses, prototypes
from hsproto.core import class_stats

pytestmark = pytest.mark.slow

SHAPES = {"K<B": (9, 4, 5), "K>B": (6, 11, 5)}
OPTIONS = [(name, shape, {}) for name in NAMES for shape in SHAPES]
OPTIONS += [
    (name, shape, {"class_block": 3})
    for name in ("cross_entropy", "normface", "decoupled_normface", "ntce", "nonl")
    for shape in SHAPES
]
OPTIONS += [("scl", "K<B", {"block_size": 4})]


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def inputs_of(shape, dtype=np.float64, **options):
    inputs = make(3, SHAPES[shape], 0.3, **options)
    floats = {k: getattr(inputs, k).astype(dtype) for k in ("features", "prototypes", "bias")}
    return inputs._replace(**floats, temperature=dtype(0.3))


def loss_of(name, inputs, options):
    if not options:
        return lambda parts: call(losses, name, inputs._replace(**parts))
    other = {"temperature": inputs.temperature} if name != "cross_entropy" else {}

    def loss(parts):
        kept = {"where": inputs.where, **other, **parts}
        positional = [kept.pop("features")]
        if name in WITH_PROTOTYPES:
            positional.append(kept.pop("prototypes"))
        return getattr(losses, name)(*positional, inputs.labels, **kept, **options)

    return loss


def parts_of(name, inputs):
    return {k: jnp.asarray(getattr(inputs, k)) for k in arguments(name)}


@pytest.mark.parametrize(("name", "shape", "options"), OPTIONS)
def test_values_and_gradients_are_float64_and_exact(name, shape, options):
    inputs = inputs_of(shape)
    loss = loss_of(name, inputs, options)
    found = jax.jit(loss)(parts_of(name, inputs))
    expected = anchors(name, inputs)
    assert found.values.dtype == jnp.float64 and found.mean().dtype == jnp.float64
    assert found.mean(weights=np.ones(len(found.valid), np.float32)).dtype == jnp.float64
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-12, atol=1e-12)
    slopes = jax.jit(jax.grad(lambda parts: loss(parts).mean()))(parts_of(name, inputs))
    for argument, slope in slopes.items():
        assert slope.dtype == jnp.float64
        right = gradient(name, inputs, argument)
        np.testing.assert_allclose(slope, right, rtol=1e-9, atol=1e-11, err_msg=argument)


FEWER = [(name, "K<B", {}) for name in NAMES] + [("ntce", "K>B", {}), ("nonl", "K>B", {})]
FEWER += [("decoupled_normface", "K<B", {"class_block": 3}), ("nonl", "K<B", {"class_block": 3})]


@pytest.mark.parametrize(("name", "shape", "options"), FEWER)
def test_first_and_second_derivatives_pass_check_grads(name, shape, options):
    inputs = inputs_of(shape)
    loss = loss_of(name, inputs, options)
    mean = jax.jit(lambda parts: loss(parts).mean())
    check_grads(mean, (parts_of(name, inputs),), order=2, modes=("fwd", "rev"), rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_float32_inputs_stay_float32_in_64_bit_mode(name):
    inputs = inputs_of("K<B", np.float32)
    found, slopes = jax.value_and_grad(
        lambda parts: call(losses, name, inputs._replace(**parts)).mean()
    )(parts_of(name, inputs))
    assert found.dtype == jnp.float32
    assert all(slope.dtype == jnp.float32 for slope in slopes.values())


@pytest.mark.parametrize("name", NAMES)
def test_float64_numpy_is_taken_as_float32_outside_64_bit_mode(name):
    with jax.enable_x64(False):
        assert call(losses, name, inputs_of("K<B")).values.dtype == jnp.float32


def test_class_means_far_from_the_origin_are_exact():
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 20_000)
    features = 1e6 + 1e-3 * random.normal(size=(20_000, 7))
    means, counts = class_stats.class_means(features, labels, num_classes=5)
    assert means.dtype == jnp.float64
    for c in range(5):
        right = features[labels == c].astype(np.longdouble).mean(axis=0)
        np.testing.assert_allclose(means[c], right.astype(np.float64), rtol=3e-16)
    np.testing.assert_array_equal(counts, np.bincount(labels))


def test_fixed_prototypes_are_float64_however_the_rows_come():
    random = np.random.default_rng(1)
    features, labels = random.normal(size=(60, 6)), random.integers(0, 3, 60)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    right = np.stack([units[labels == c].mean(axis=0) for c in range(3)])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    fitted = prototypes.fit(features, labels, num_classes=3)
    halves = [
        prototypes.update(prototypes.init(3, 6), features[part], labels[part])
        for part in (slice(0, 25), slice(25, 60))
    ]
    for got in (fitted, prototypes.finish(prototypes.merge(*halves))):
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, right, atol=1e-14)
    scores = prototypes.logits(features, fitted, temperature=0.1)
    assert scores.dtype == jnp.float64
    np.testing.assert_allclose(scores, units @ right.T / 0.1, atol=1e-13)
    assert prototypes.predict(features, fitted).dtype == jnp.int32


def test_an_accumulator_of_float64_goes_through_scan():
    features, labels = np.random.default_rng(2).normal(size=(4, 8, 6)), np.arange(32).reshape(4, 8)
    add = lambda stats, batch: (prototypes.update(stats, *batch), None)  # noqa: E731
    stats, _ = jax.lax.scan(
        add, prototypes.init(3, 6, dtype=jnp.float64), (jnp.asarray(features), labels % 3)
    )
    fit = functools.partial(prototypes.fit, num_classes=3)
    right = fit(features.reshape(32, 6), np.arange(32) % 3)
    np.testing.assert_allclose(prototypes.finish(stats), right, atol=1e-14)


def clustered(spread, dtype=np.float64):
    """(features, labels, prototypes): 4 classes of 30 rows around a simplex in 6 dimensions."""
    random = np.random.default_rng(3)
    corners = np.asarray(geometry.simplex_etf(jax.random.key(0), 4, 6, dtype=jnp.float64))
    labels = np.arange(120) % 4
    features = corners[labels] + spread * random.normal(size=(120, 6))
    return (
        features.astype(dtype),
        labels,
        (corners + 0.1 * random.normal(size=(4, 6))).astype(dtype),
    )


def test_measures_of_geometry_are_float64_and_right(monkeypatch):
    monkeypatch.setattr(oracle_geometry, "ROUNDING", 16 * 2.0**-52)
    features, labels, weights = clustered(0.3)
    bias = np.linspace(-0.1, 0.1, 4)
    got = geometry.neural_collapse(features, labels, weights, num_classes=4, bias=bias)
    right = oracle_geometry.neural_collapse(features, labels, weights, num_classes=4, bias=bias)
    for key, value in got.items():
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, right[key], rtol=1e-10, atol=1e-12, err_msg=key)
    mixed = geometry.neural_collapse(features.astype(np.float32), labels, weights, num_classes=4)
    assert {value.dtype for value in mixed.values()} == {jnp.dtype(jnp.float64)}


def test_measures_of_float32_stay_float32_in_64_bit_mode():
    arrays = clustered(0.3, np.float32)
    got = geometry.neural_collapse(*arrays, num_classes=4)
    with jax.enable_x64(False):
        right = geometry.neural_collapse(*arrays, num_classes=4)
    for key, value in got.items():
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, right[key], err_msg=key)


@pytest.mark.parametrize("spread", [1e-7, 1e-10])
def test_a_small_spread_does_not_read_as_collapse(spread):
    features, labels, weights = clustered(spread)
    got = geometry.neural_collapse(features, labels, weights, num_classes=4)
    larger = geometry.neural_collapse(*clustered(1e-3), num_classes=4)
    for key in ("nc1", "cdnv", "instance_alignment"):
        np.testing.assert_allclose(got[key], larger[key] * (spread / 1e-3) ** 2, rtol=0.01)
    np.testing.assert_allclose(got["erank_intra"], larger["erank_intra"], rtol=0.01)
    narrow = clustered(1e-8, np.float32)[:2]
    assert geometry.neural_collapse(*narrow, num_classes=4)["nc1"] == 0


def test_the_effective_rank_and_the_simplex_are_float64():
    singular = np.array([1.0, 1e-9, 1e-12])
    p = singular / singular.sum()
    rank = geometry.effective_rank(np.diag(singular))
    assert rank.dtype == jnp.float64
    np.testing.assert_allclose(rank, np.exp(-np.sum(p * np.log(p))), rtol=1e-15)
    assert geometry.effective_rank(1e250 * np.eye(3)) == pytest.approx(3, rel=1e-14)
    assert geometry.effective_rank(np.zeros((2, 0))).dtype == jnp.float64
    frame = geometry.simplex_etf(jax.random.key(0), 5, 8, dtype=jnp.float64)
    assert frame.dtype == jnp.float64
    np.testing.assert_allclose(frame @ frame.T, 1.25 * np.eye(5) - 0.25, atol=1e-15)
