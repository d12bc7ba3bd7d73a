"""PerAnchor is a pytree of two fields and no array: it cannot be averaged by mistake."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle_losses import call, make

from hsproto import losses

VALUES = np.array([1.0, 3.0, 0.0, 5.0], np.float32)
VALID = np.array([True, True, False, True])


@pytest.fixture
def loss():
    return losses.PerAnchor(jnp.asarray(VALUES), jnp.asarray(VALID))


REFUSED = {
    "loss + 1": lambda x: x + 1,
    "1 + loss": lambda x: 1 + x,
    "loss + loss": lambda x: x + x,
    "2.0 * loss": lambda x: 2.0 * x,
    "loss * jax": lambda x: x * jnp.ones(4),
    "jax * loss": lambda x: jnp.ones(4) * x,
    "jax - loss": lambda x: jnp.float32(1) - x,
    "numpy * loss": lambda x: np.ones(4) * x,
    "numpy scalar * loss": lambda x: np.float32(2) * x,
    "loss / numpy": lambda x: x / np.ones(4),
    "-loss": lambda x: -x,
    "loss < 1": lambda x: x < 1,
    "loss == 0": lambda x: x == 0,
    "jax == loss": lambda x: jnp.zeros(4) == x,
    "loss[0]": lambda x: x[0],
    "float": float,
    "int": int,
    "bool": bool,
    "np.asarray": np.asarray,
    "np.sum": np.sum,
    "np.exp": np.exp,
    "jnp.asarray": jnp.asarray,
    "jnp.mean": jnp.mean,
    "jnp.sum": jnp.sum,
    "jnp.exp": jnp.exp,
}


@pytest.mark.parametrize("how", sorted(REFUSED))
def test_arithmetic_and_conversion_are_refused_with_the_way_out(loss, how):
    with pytest.raises(TypeError, match=r"use \.values or \.mean\(weights=\.\.\.\)"):
        REFUSED[how](loss)


def test_it_unpacks_into_its_fields_and_is_no_tuple(loss):
    values, valid = loss
    np.testing.assert_array_equal(values, VALUES)
    np.testing.assert_array_equal(valid, VALID)
    assert not isinstance(loss, tuple)
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(loss)] == [
        ".values",
        ".valid",
    ]


def test_it_goes_through_transformations_as_itself(loss):
    assert isinstance(jax.tree.map(lambda x: x, loss), losses.PerAnchor)
    doubled = jax.jit(lambda x: losses.PerAnchor(2 * x.values, x.valid))(loss)
    assert float(doubled.mean()) == 6.0
    stacked = jax.vmap(lambda x: losses.PerAnchor(x * loss.values, loss.valid))(jnp.arange(3.0))
    assert stacked.values.shape == (3, 4)
    np.testing.assert_allclose(jax.vmap(losses.PerAnchor.mean)(stacked), [0, 3, 6])
    slope = jax.grad(lambda x: losses.PerAnchor(x * loss.valid, loss.valid).mean())(loss.values)
    np.testing.assert_allclose(slope, VALID / 3)


def test_a_weighted_mean_is_over_the_valid_anchors(loss):
    for weights in ([1.0, 2.0, 100.0, 0.5], np.array([2, 4, np.inf, 1])):
        np.testing.assert_allclose(loss.mean(weights=weights), (1 + 6 + 2.5) / 3.5)
    np.testing.assert_allclose(loss.mean(weights=jnp.full(4, 1e-3)), 3.0, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda w: loss.mean(weights=w))(jnp.ones(4)), 3.0)


def test_without_weight_or_valid_anchor_the_mean_and_its_gradient_are_zero(loss):
    nothing = losses.PerAnchor(loss.values * 0, loss.valid & False)
    assert float(loss.mean(weights=np.zeros(4))) == 0
    assert float(nothing.mean(weights=np.ones(4))) == 0 and float(nothing.mean()) == 0
    slope = jax.grad(lambda x: losses.PerAnchor(x, nothing.valid).mean(weights=x))(loss.values)
    np.testing.assert_array_equal(slope, 0)


def test_a_weight_of_a_wrong_kind_is_refused(loss):
    with pytest.raises(ValueError, match=r"weights must have shape \(4,\); got shape \(3,\)"):
        loss.mean(weights=np.ones(3))
    with pytest.raises(ValueError, match="weights must not be negative"):
        loss.mean(weights=[1.0, -1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="weights must be an array"):
        loss.mean(weights="none")


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_the_weighted_mean_of_eight_devices_is_that_of_one(kind):
    inputs = make(0, (32, 5, 6), 0.2)
    weights = np.random.default_rng(0).random(32).astype(np.float32)

    def mean(features, labels, where, weights, axis_name=None):
        batch = inputs._replace(features=features, labels=labels, where=where)
        found = call(losses, "nonl", batch, axis_name=axis_name)
        return found.mean(axis_name, weights=weights)

    mesh = jax.make_mesh((8,), ("b",), axis_types=(kind,))
    split = jax.shard_map(
        functools.partial(mean, axis_name="b"), mesh=mesh, in_specs=P("b"), out_specs=P()
    )
    rows = inputs.features, inputs.labels, inputs.where, weights
    right = jax.value_and_grad(mean)(*rows)
    with jax.set_mesh(mesh):
        rows = jax.device_put(rows, NamedSharding(mesh, P("b")))
        got = jax.jit(jax.value_and_grad(split))(*rows)
    np.testing.assert_allclose(got[0], right[0], rtol=1e-6)
    np.testing.assert_allclose(got[1], right[1], rtol=1e-5, atol=1e-7)
