"""A batch split over eight devices gives what it gives on one: values, masks and gradients.

Three ways to split are held against one device: `jit` on arrays sharded over a mesh, `shard_map`
(gradient taken around it and inside it) and `pmap`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle_losses import NAMES, OVER_THE_BATCH, arguments, call, make

from hsproto import losses

DEVICES, ROWS, DIMS = 8, 32, 6
FEW, MANY = 5, 40  # classes: fewer and more than the rows of the global batch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(jax.device_count() < DEVICES, reason="needs eight devices"),
]

# More classes than rows is another route through NTCE and NONL. Compiling takes nearly all the
# time, so not every loss goes every way: what NTCE and NONL exchange is the same.
CASES = [(name, FEW) for name in NAMES] + [("ntce", MANY), ("nonl", MANY)]
FEWER_CASES = [("nonl", FEW), ("nonl", MANY), ("scl", FEW), ("prototype_softmax", FEW)]


def batches(num_classes):
    """Ways in which classes and masked rows can lie across devices of four rows each."""
    inputs = make(0, (ROWS, num_classes, DIMS))
    every = np.ones(ROWS, bool)
    device = np.arange(ROWS) // (ROWS // DEVICES)
    labels = np.random.default_rng(1).integers(0, num_classes, ROWS, dtype=np.int32)
    yield "random labels, random mask", inputs
    yield "a class on few devices", inputs._replace(labels=np.sort(labels), where=every)
    yield "whole devices masked", inputs._replace(labels=labels, where=~np.isin(device, (0, 3, 7)))
    yield "a device of unlabeled rows", inputs._replace(labels=np.where(device == 2, -1, labels))
    yield (
        "negatives on one device only",
        inputs._replace(labels=(device == 7).astype(np.int32), where=every),
    )
    yield (
        "positives on other devices only",
        inputs._replace(labels=(np.arange(ROWS) % 4).astype(np.int32), where=every),
    )
    yield (
        "two rows on two devices",
        inputs._replace(
            labels=np.where(device > 3, 1, 0).astype(np.int32),
            where=np.isin(np.arange(ROWS), (0, 31)),
        ),
    )
    yield "nothing", inputs._replace(where=~every)


def split(name, inputs):
    """(parameters that every device holds, rows that are divided over the devices)."""
    shared = {k: getattr(inputs, k) for k in ("prototypes", "bias", "temperature")}
    used = {k: shared[k] for k in arguments(name) if k != "features"}
    rest = {k: v for k, v in shared.items() if k not in used}
    used["encoder"] = np.eye(DIMS, dtype=np.float32) + 0.1
    rows = {k: getattr(inputs, k) for k in ("features", "labels", "where")}
    return used, rest, rows


def loss_of(name, template, axis_name=None):
    """f(used, rest, rows) -> (mean over the global batch, PerAnchor of these rows)."""

    def loss(used, rest, rows):
        used = dict(used)
        features = rows["features"] @ used.pop("encoder")
        inputs = template._replace(**used, **rest, **rows)._replace(features=features)
        options = {} if name not in OVER_THE_BATCH else {"axis_name": axis_name}
        found = call(losses, name, inputs, **options)
        return found.mean(axis_name), found

    return loss


def mesh_of(*sizes):
    names = ("batch",) if len(sizes) == 1 else ("hosts", "batch")
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


TEMPLATE = make(0, (ROWS, FEW, DIMS))


def value_and_slopes(loss):
    """Mean, PerAnchor, gradients by the shared parameters and by the features."""

    def both(used, rest, rows):
        features = rows["features"]

        def of(used, features):
            return loss(used, rest, {**rows, "features": features})

        (mean, found), slopes = jax.value_and_grad(of, argnums=(0, 1), has_aux=True)(used, features)
        return mean, found, slopes

    return both


@functools.cache
def one_device(name):
    return jax.jit(value_and_slopes(loss_of(name, TEMPLATE)))


def assert_equals_one_device(name, num_classes, parallel):
    for what, inputs in batches(num_classes):
        parts = split(name, inputs)
        right_mean, right, right_slopes = one_device(name)(*parts)
        mean, found, slopes = parallel(*parts)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=5e-6, err_msg=what)
        np.testing.assert_array_equal(found.valid.reshape(-1), right.valid, err_msg=what)
        close(found.values.reshape(-1), right.values)
        close(mean, right_mean)
        for argument in slopes[0]:
            close(slopes[0][argument], right_slopes[0][argument], atol=2e-5)
        if slopes[1] is not None:
            close(slopes[1], right_slopes[1])


@pytest.mark.parametrize(("name", "num_classes"), CASES)
def test_jit_over_a_mesh_equals_one_device(name, num_classes):
    mesh = mesh_of(DEVICES)
    rows_over_devices, everywhere = NamedSharding(mesh, P("batch")), NamedSharding(mesh, P())
    step = jax.jit(value_and_slopes(loss_of(name, TEMPLATE)))

    def parallel(used, rest, rows):
        rows = jax.device_put(rows, rows_over_devices)
        return step(*jax.device_put((used, rest), everywhere), rows)

    assert_equals_one_device(name, num_classes, parallel)


@pytest.mark.parametrize(("name", "num_classes"), CASES)
def test_shard_map_with_the_gradient_inside_equals_one_device(name, num_classes):
    step = jax.shard_map(
        value_and_slopes(loss_of(name, TEMPLATE, "batch")),
        mesh=mesh_of(DEVICES),
        in_specs=(P(), P(), P("batch")),
        out_specs=(P(), P("batch"), (P(), P("batch"))),
        check_vma=True,
    )
    assert_equals_one_device(name, num_classes, jax.jit(step))


@pytest.mark.parametrize(("name", "num_classes"), FEWER_CASES)
def test_shard_map_with_the_gradient_around_it_equals_one_device(name, num_classes):
    loss = jax.shard_map(
        loss_of(name, TEMPLATE, "batch"),
        mesh=mesh_of(DEVICES),
        in_specs=(P(), P(), P("batch")),
        out_specs=(P(), P("batch")),
        check_vma=True,
    )
    assert_equals_one_device(name, num_classes, jax.jit(value_and_slopes(loss)))


@pytest.mark.parametrize(("name", "num_classes"), FEWER_CASES + [("ntce", FEW), ("normface", FEW)])
def test_pmap_with_averaged_parameter_gradients_equals_one_device(name, num_classes):
    both = value_and_slopes(loss_of(name, TEMPLATE, "batch"))

    def per_device(used, rest, rows):
        mean, found, (shared, _) = both(used, rest, rows)
        return mean, found, jax.lax.pmean(shared, "batch")

    step = jax.pmap(per_device, axis_name="batch", in_axes=(None, None, 0))

    def parallel(used, rest, rows):
        rows = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), rows)
        mean, found, shared = step(used, rest, rows)
        first = functools.partial(jax.tree.map, lambda x: x[0])
        return first(mean), found, (first(shared), None)

    assert_equals_one_device(name, num_classes, parallel)


@pytest.mark.parametrize(("name", "num_classes"), FEWER_CASES)
def test_the_batch_may_be_split_over_two_mapped_axes(name, num_classes):
    axes = ("hosts", "batch")
    loss = jax.shard_map(
        loss_of(name, TEMPLATE, axes),
        mesh=mesh_of(2, DEVICES // 2),
        in_specs=(P(), P(), P(axes)),
        out_specs=(P(), P(axes)),
    )
    inputs = dict(batches(num_classes))["random labels, random mask"]
    parts = split(name, inputs)
    mean, found = jax.jit(loss)(*parts)
    right_mean, right, _ = one_device(name)(*parts)
    np.testing.assert_array_equal(found.valid, right.valid)
    np.testing.assert_allclose(found.values, right.values, rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(mean, right_mean, rtol=1e-5)


def test_scl_in_blocks_on_eight_devices_equals_scl_on_one():
    inputs = dict(batches(FEW))["random labels, random mask"]

    def mean(features, labels, where):
        found = losses.scl(
            features,
            labels,
            temperature=0.2,
            where=where,
            axis_name="batch",
            block_size=3,  # of four rows a device
        )
        return found.mean("batch")

    split_mean = jax.shard_map(
        mean, mesh=mesh_of(DEVICES), in_specs=P("batch"), out_specs=P(), check_vma=True
    )
    rows = inputs.features, inputs.labels, inputs.where
    got, slope = jax.jit(jax.value_and_grad(split_mean))(*rows)

    def whole(features, labels, where):
        return losses.scl(features, labels, temperature=0.2, where=where).mean()

    right, right_slope = jax.jit(jax.value_and_grad(whole))(*rows)
    np.testing.assert_allclose(got, right, rtol=1e-5)
    np.testing.assert_allclose(slope, right_slope, rtol=1e-5, atol=1e-6)


def exchanged(name, num_classes):
    """Entries of each float array (but the mean's two scalars) that devices exchange."""
    step = jax.shard_map(
        loss_of(name, TEMPLATE, "batch"),
        mesh=mesh_of(DEVICES),
        in_specs=(P(), P(), P("batch")),
        out_specs=(P(), P("batch")),
    )
    collectives = {"psum", "psum_invariant", "pmax", "all_gather", "all_to_all", "ppermute"}

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in collectives:
                arrays = (v.aval for v in equation.invars if v.aval.size > 1)
                yield from (a.size for a in arrays if a.dtype == jnp.float32)
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from walk(inner)

    inputs = dict(batches(num_classes))["nothing"]
    return list(walk(jax.make_jaxpr(step)(*split(name, inputs)).jaxpr))


@pytest.mark.parametrize("name", ["ntce", "nonl"])
def test_ntce_and_nonl_exchange_a_maximum_and_a_sum_per_class_and_no_features(name):
    assert exchanged(name, FEW) == [FEW, FEW]
    assert exchanged(name, MANY) == [ROWS, ROWS]


def test_only_scl_exchanges_features():
    assert exchanged("scl", FEW) == [ROWS // DEVICES * DIMS]
    assert sorted(exchanged("prototype_softmax", FEW)) == [FEW, FEW * DIMS]
