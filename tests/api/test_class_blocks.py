"""`class_block`: classes a block at a time give what all at once give, in less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle_losses import make

from hsproto import losses

pytestmark = pytest.mark.slow

NAMES = ("cross_entropy", "normface", "decoupled_normface", "ntce", "nonl")
SHAPES = {"K<B": (16, 7, 5), "K>B": (6, 23, 5)}


def loss_of(name, inputs, **options):
    """f(features, prototypes, bias, temperature) -> PerAnchor."""

    def loss(features, prototypes, bias, temperature):
        given = {"where": inputs.where, **options}
        if name != "cross_entropy":
            given["temperature"] = temperature
        if name in ("cross_entropy", "normface"):
            given["bias"] = bias
        return getattr(losses, name)(features, prototypes, inputs.labels, **given)

    return loss


def both(loss, inputs):
    parts = inputs.features, inputs.prototypes, inputs.bias, inputs.temperature

    def mean(*parts):
        found = loss(*parts)
        return found.mean(), found

    return jax.jit(jax.value_and_grad(mean, argnums=(0, 1, 2, 3), has_aux=True))(*parts)


def assert_equal(got, right):
    (mean, found), slopes = got
    (right_mean, right_found), right_slopes = right
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(mean, right_mean)
    np.testing.assert_array_equal(found.valid, right_found.valid)
    close(found.values, right_found.values)
    assert np.all(np.asarray(found.values)[~np.asarray(found.valid)] == 0)
    jax.tree.map(close, slopes, right_slopes)


@pytest.mark.parametrize("class_block", [1, 3, 4, 7, 100])
@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_all_classes_at_once(name, shape, class_block):
    inputs = make(0, SHAPES[shape], 0.1)
    right = both(loss_of(name, inputs), inputs)
    assert_equal(both(loss_of(name, inputs, class_block=class_block), inputs), right)


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("name", NAMES)
def test_masked_rows_may_hold_anything_and_large_logits_do_not_overflow(name, shape):
    inputs = make(1, SHAPES[shape], 0.005)
    counts = inputs.where & (inputs.labels >= 0) & (inputs.labels < SHAPES[shape][1])
    assert 0 < counts.sum() < len(counts)
    inputs.features[~counts] = np.nan
    if name == "cross_entropy":
        inputs = inputs._replace(prototypes=50 * inputs.prototypes)
    right = both(loss_of(name, inputs), inputs)
    got = both(loss_of(name, inputs, class_block=3), inputs)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(got))
    scale = 0.005 if name != "cross_entropy" else 1.0
    np.testing.assert_allclose(got[0][0], right[0][0], rtol=1e-5)
    for slope, right_slope in zip(got[1][:2], right[1][:2], strict=True):
        np.testing.assert_allclose(slope * scale, right_slope * scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_counts_and_is_not_finite_shows(name):
    inputs = make(2, SHAPES["K<B"], masked=False)
    inputs = inputs._replace(labels=np.arange(16, dtype=np.int32) // 3)
    inputs.features[1, 0] = np.nan
    assert not np.isfinite(both(loss_of(name, inputs, class_block=3), inputs)[0][0])


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_at_all_give_zero_and_zero_gradients(name):
    inputs = make(2, SHAPES["K<B"])._replace(where=np.zeros(16, bool))
    (mean, found), slopes = both(loss_of(name, inputs, class_block=3), inputs)
    assert mean == 0 and not np.any(found.valid)
    assert all(not np.any(slope) for slope in slopes)


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("name", ["ntce", "nonl"])
def test_a_queue_is_seen_by_every_block(name, shape):
    inputs = make(3, SHAPES[shape])
    more = make(4, SHAPES[shape])
    queue = more.features, more.labels
    right = both(loss_of(name, inputs, queue=queue), inputs)
    assert_equal(both(loss_of(name, inputs, queue=queue, class_block=3), inputs), right)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["Auto", "Explicit"])
@pytest.mark.parametrize("num_classes", [7, 40], ids=["K<B", "K>B"])
@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_equal_one(name, num_classes, kind):
    inputs = make(5, (32, num_classes, 5), 0.2)
    options = {"axis_name": "b"} if name in ("ntce", "nonl") else {}
    mesh = jax.make_mesh((8,), ("b",), axis_types=(kind,))

    def mean(prototypes, features, labels, where):
        batch = inputs._replace(labels=labels, where=where)
        loss = loss_of(name, batch, class_block=3, **options)
        return loss(features, prototypes, inputs.bias, inputs.temperature).mean("b")

    step = jax.shard_map(
        jax.value_and_grad(mean, argnums=(0, 1)),
        mesh=mesh,
        in_specs=(P(), P("b"), P("b"), P("b")),
        out_specs=(P(), (P(), P("b"))),
    )
    rows = inputs.features, inputs.labels, inputs.where
    with jax.set_mesh(mesh):
        placed = jax.device_put(rows, NamedSharding(mesh, P("b")))
        got = jax.jit(step)(jax.device_put(inputs.prototypes, NamedSharding(mesh, P())), *placed)
    (right, _), slopes = both(loss_of(name, inputs), inputs)
    np.testing.assert_allclose(got[0], right, rtol=1e-5)
    np.testing.assert_allclose(got[1][0], slopes[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[1][1], slopes[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_of_classes_take_a_tenth_of_the_memory_of_all_at_once(name):
    rows, num_classes, dims = 512, 20_000, 16
    if name in ("ntce", "nonl"):
        rows, num_classes = 20_000, 2048

    def temporaries(class_block):
        def objective(features, prototypes, labels):
            options = {} if name == "cross_entropy" else {"temperature": 0.1}
            loss = getattr(losses, name)
            return loss(features, prototypes, labels, class_block=class_block, **options).mean()

        shapes = (
            jax.ShapeDtypeStruct((rows, dims), jnp.float32),
            jax.ShapeDtypeStruct((num_classes, dims), jnp.float32),
            jax.ShapeDtypeStruct((rows,), jnp.int32),
        )
        step = jax.jit(jax.value_and_grad(objective, argnums=(0, 1)))
        return step.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(64) <= temporaries(None) / 10


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("class_block", [0, -1, 2.5, True])
def test_a_wrong_class_block_is_refused(name, class_block):
    inputs = make(6, SHAPES["K<B"])
    with pytest.raises(ValueError, match=f"class_block must be.*{class_block}"):
        loss_of(name, inputs, class_block=class_block)(
            inputs.features, inputs.prototypes, inputs.bias, 0.1
        )
