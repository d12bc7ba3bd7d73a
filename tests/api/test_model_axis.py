"""`model_axis`: classes split over a second mesh axis give what one device gives.

Two by four devices, rows split over the first axis and classes over the second: in `shard_map`
with `model_axis`, and under `jit` by the shardings of the arrays alone.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle_losses import make

from hsproto import losses

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")

NAMES = ("cross_entropy", "normface", "decoupled_normface", "ntce", "nonl")
FEW, MANY = 8, 120  # classes: on each device fewer, and more, than the rows of the batch
ROWS, DIMS = 16, 6
CASES = [(name, FEW, None) for name in NAMES] + [("normface", MANY, 7)]
CASES += [(name, MANY, block) for name in ("ntce", "nonl") for block in (None, 5)]


def mesh():
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def parts_of(name, num_classes):
    """(arrays split by class, arrays split by row) of a loss; some rows do not count."""
    inputs, more = make(0, (ROWS, num_classes, DIMS)), make(1, (ROWS, num_classes, DIMS))
    classes = {"prototypes": inputs.prototypes}
    rows = {"features": inputs.features, "labels": inputs.labels, "where": inputs.where}
    if name in ("cross_entropy", "normface"):
        classes["bias"] = inputs.bias
    if name == "nonl":
        rows["queue"] = more.features, more.labels
    return classes, rows


def loss_of(name, **options):
    """f(classes, rows) -> PerAnchor."""

    def loss(classes, rows):
        given = options if name == "cross_entropy" else {"temperature": 0.2, **options}
        return getattr(losses, name)(**classes, **rows, **given)

    return loss


def on_arrays(name, classes, rows):
    """Value and gradients on whole arrays, however they are sharded."""

    def objective(classes, features):
        found = loss_of(name)(classes, {**rows, "features": features})
        return found.mean(), found

    both = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    return both(classes, rows["features"])


def in_shards(name, class_block, inside):
    """Value and gradients in `shard_map`, taken inside it or around it."""
    options = {"model_axis": "model", "class_block": class_block}
    if name in ("ntce", "nonl"):
        options["axis_name"] = "data"

    def local(classes, rows):
        found = loss_of(name, **options)(classes, rows)
        return found.mean("data"), found

    def slopes(classes, features, rows, of=local):
        def objective(classes, features):
            return of(classes, {**rows, "features": features})

        return jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(classes, features)

    split = functools.partial(jax.shard_map, mesh=mesh())
    if inside:
        step = split(
            lambda classes, rows: slopes(classes, rows["features"], rows),
            in_specs=(P("model"), P("data")),
            out_specs=((P(), P("data")), (P("model"), P("data"))),
        )
        return jax.jit(step)
    around = split(local, in_specs=(P("model"), P("data")), out_specs=(P(), P("data")))
    return jax.jit(lambda classes, rows: slopes(classes, rows["features"], rows, around))


@functools.cache
def on_one_device(name, num_classes):
    return jax.jit(functools.partial(on_arrays, name))(*parts_of(name, num_classes))


def assert_equal(got, right):
    (mean, found), slopes = got
    (right_mean, right_found), right_slopes = right
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.valid, right_found.valid)
    close(found.values, right_found.values)
    close(mean, right_mean)
    jax.tree.map(close, slopes, right_slopes)


@pytest.mark.parametrize(
    ("name", "num_classes", "class_block", "inside"),
    [(*case, False) for case in CASES] + [(*case, True) for case in CASES if not case[2]],
)
def test_shard_map_equals_one_device(name, num_classes, class_block, inside):
    got = in_shards(name, class_block, inside)(*parts_of(name, num_classes))
    assert_equal(got, on_one_device(name, num_classes))


@pytest.mark.parametrize(
    ("name", "num_classes"), [("normface", FEW), ("ntce", FEW), ("nonl", FEW), ("nonl", MANY)]
)
def test_jit_over_a_mesh_of_auto_axes_equals_one_device(name, num_classes):
    classes, rows = parts_of(name, num_classes)
    classes = jax.device_put(classes, NamedSharding(mesh(), P("model")))
    rows = jax.device_put(rows, NamedSharding(mesh(), P("data")))

    got = jax.jit(functools.partial(on_arrays, name))(classes, rows)
    assert got[1][0]["prototypes"].sharding.spec[0] == "model"
    assert_equal(got, on_one_device(name, num_classes))


@pytest.mark.parametrize("name", ["normface", "ntce", "nonl"])
def test_neither_prototypes_nor_features_cross_the_class_axis(name):
    # One row of devices: whatever crosses at all crosses the class axis.
    options = {"temperature": 0.1, "model_axis": "model"}

    def local(prototypes, features, labels):
        return getattr(losses, name)(features, prototypes, labels, **options).mean()

    row = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    loss = jax.shard_map(local, mesh=row, in_specs=(P("model"), P(), P()), out_specs=P())
    shapes = [((256, 64), "f"), ((64, 64), "f"), ((64,), "i")]
    arguments = [jax.ShapeDtypeStruct(shape, np.dtype(kind + "4")) for shape, kind in shapes]
    with jax.set_mesh(row):
        jaxpr = str(jax.make_jaxpr(loss)(*arguments))
    crossing = [line for line in jaxpr.splitlines() if "psum" in line or "pmax" in line]
    assert crossing and "all_gather" not in jaxpr
    assert not any("64,64]" in line for line in crossing)


def test_soft_labels_are_refused():
    soft = jnp.full((4, 2), 0.5)

    def local(prototypes):
        return losses.ntce(
            jnp.ones((4, 3)), prototypes, soft, temperature=0.1, model_axis="model"
        ).mean()

    with pytest.raises(ValueError, match="labels must be integers .* with model_axis"):
        jax.shard_map(local, mesh=mesh(), in_specs=P("model"), out_specs=P())(jnp.ones((8, 3)))
