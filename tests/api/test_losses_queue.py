"""Losses with a queue: further instances that are held against the anchors but are none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from oracle_losses import call, make

from hsproto import losses, methods
from hsproto.parallel import mesh as mesh_lib

ROWS, QUEUED = 16, 24


def split(inputs):
    """The first ROWS rows as a batch, and the rest as a queue."""
    batch = inputs._replace(
        features=inputs.features[:ROWS], labels=inputs.labels[:ROWS], where=None
    )
    return batch, (inputs.features[ROWS:], inputs.labels[ROWS:])


@pytest.mark.parametrize("name", methods.QUEUE_LOSSES)
@pytest.mark.parametrize("num_classes", [5, 60], ids=["K<B", "K>B"])
def test_a_queue_is_rows_that_are_no_anchors(name, num_classes):
    inputs = make(3, (ROWS + QUEUED, num_classes, 6))._replace(where=None)
    batch, queue = split(inputs)
    found = call(losses, name, batch, queue=queue)
    whole = call(losses, name, inputs)
    np.testing.assert_array_equal(found.valid, whole.valid[:ROWS])
    np.testing.assert_allclose(found.values, whole.values[:ROWS], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", methods.QUEUE_LOSSES)
def test_an_empty_queue_changes_nothing(name):
    batch, (features, labels) = split(make(4, (ROWS + QUEUED, 5, 6)))
    expected = call(losses, name, batch)
    found = call(losses, name, batch, queue=(features, np.full_like(labels, -1)))
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", methods.QUEUE_LOSSES)
def test_on_eight_devices_as_on_one(name):
    """NTCE and NONL split the queue, SCL has it whole everywhere."""
    batch, queue = split(make(5, (ROWS + QUEUED, 5, 6)))
    mesh, rows = mesh_lib.make_mesh(), PartitionSpec("data")

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(rows, rows, PartitionSpec() if name == "scl" else rows),
        out_specs=PartitionSpec(),
    )
    def mean(features, labels, queue):
        here = batch._replace(features=features, labels=labels)
        return call(losses, name, here, queue=queue, axis_name="data").mean("data")

    one = jax.value_and_grad(
        lambda features: call(losses, name, batch._replace(features=features), queue=queue).mean()
    )(batch.features)
    eight = jax.jit(jax.value_and_grad(mean))(batch.features, batch.labels, queue)
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-5)
    np.testing.assert_allclose(eight[1], one[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", methods.QUEUE_LOSSES)
def test_a_queue_of_wrong_shape_is_refused(name):
    batch, (features, labels) = split(make(6, (ROWS + QUEUED, 5, 6)))
    with pytest.raises(ValueError, match="queue features must have 6 columns"):
        call(losses, name, batch, queue=(jnp.ones((3, 4)), labels[:3]))
    with pytest.raises(ValueError, match="labels must have shape"):
        call(losses, name, batch, queue=(features, labels[:-1]))


@pytest.mark.parametrize("name", methods.QUEUE_LOSSES)
def test_a_queue_is_a_pair(name):
    batch, (features, _) = split(make(4, (ROWS + QUEUED, 5, 6)))
    with pytest.raises(ValueError, match="queue must be a pair of features and labels"):
        call(losses, name, batch, queue=features)
