"""On meshes with Explicit axes, JAX's default, everything gives what one device gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle_losses import NAMES, OVER_THE_BATCH, arguments, call, make

from hsproto import geometry, losses
from hsproto.core import class_stats, spectra
from hsproto.prototypes import finish, fit, init, logits, merge, predict, update

ROWS, FEW, MANY, DIMS = 32, 5, 40, 6
CASES = [(name, FEW) for name in NAMES] + [("ntce", MANY), ("nonl", MANY)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices"),
]
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=5e-6)


def value_and_slopes(name, template, axis_name=None):
    options = {"axis_name": axis_name} if name in OVER_THE_BATCH else {}

    def loss(used, rest):
        found = call(losses, name, template._replace(**used, **rest), **options)
        return found.mean(axis_name), found

    return jax.value_and_grad(loss, has_aux=True)


def split(name, inputs):
    used = {argument: getattr(inputs, argument) for argument in arguments(name)}
    return used, {"labels": inputs.labels, "where": inputs.where}


def specs(used, rest):
    sharded = dict.fromkeys(("features", "labels", "where"), P("b"))
    return tuple({key: sharded.get(key, P()) for key in part} for part in (used, rest))


def place(mesh, parts):
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs(*parts), is_leaf=lambda x: type(x) is P
    )
    return jax.device_put(parts, shardings)


def assert_equal(got, right):
    (mean, found), slopes = got
    (right_mean, right_found), right_slopes = right
    close(mean, right_mean)
    np.testing.assert_array_equal(found.valid, right_found.valid)
    close(found.values, right_found.values)
    for argument in right_slopes:
        close(slopes[argument], right_slopes[argument], atol=2e-5, err_msg=argument)


@pytest.mark.parametrize(("name", "num_classes"), CASES)
@pytest.mark.parametrize("set_mesh", [True, False], ids=["set_mesh", "by its arguments"])
def test_losses_under_jit(name, num_classes, set_mesh):
    inputs = make(0, (ROWS, num_classes, DIMS))
    parts = split(name, inputs)
    step = value_and_slopes(name, inputs)
    right = jax.jit(step)(*parts)
    mesh = jax.make_mesh((8,), ("b",))
    assert mesh.axis_types == (AxisType.Explicit,)
    placed = place(mesh, parts)
    if set_mesh:
        with jax.set_mesh(mesh):
            got = jax.jit(step)(*placed)
    else:
        got = jax.jit(step)(*placed)
    assert_equal(got, right)
    assert got[0][1].values.sharding.spec == P("b")
    assert got[1]["features"].sharding.spec[0] == "b"


@pytest.mark.parametrize("name", ["nonl", "scl", "normface"])
def test_losses_outside_jit(name):
    inputs = make(1, (ROWS, FEW, DIMS))
    parts = split(name, inputs)
    step = value_and_slopes(name, inputs)
    mesh = jax.make_mesh((8,), ("b",))
    with jax.set_mesh(mesh):
        assert_equal(step(*place(mesh, parts)), step(*parts))


@pytest.mark.parametrize(("name", "num_classes"), CASES)
def test_losses_inside_shard_map(name, num_classes):
    inputs = make(2, (ROWS, num_classes, DIMS))
    parts = split(name, inputs)
    used, rest = specs(*parts)
    step = jax.shard_map(
        value_and_slopes(name, inputs, "b"),
        mesh=(mesh := jax.make_mesh((8,), ("b",))),
        in_specs=(used, rest),
        out_specs=((P(), P("b")), used),
    )
    with jax.set_mesh(mesh):
        got = jax.jit(step)(*place(mesh, parts))
    assert_equal(got, jax.jit(value_and_slopes(name, inputs))(*parts))


@pytest.mark.parametrize("name", ["nonl", "scl", "cross_entropy"])
def test_losses_where_shard_map_takes_one_of_two_axes(name):
    """The other axis stays Explicit inside."""
    inputs = make(3, (ROWS, FEW, DIMS))
    parts = split(name, inputs)
    used, rest = specs(*parts)
    mesh = jax.make_mesh((4, 2), ("b", "m"))
    step = jax.shard_map(
        value_and_slopes(name, inputs, "b"),
        mesh=mesh,
        axis_names={"b"},
        in_specs=(used, rest),
        out_specs=((P(), P("b")), used),
    )
    with jax.set_mesh(mesh):
        got = jax.jit(step)(*place(mesh, parts))
    assert_equal(got, jax.jit(value_and_slopes(name, inputs))(*parts))


@pytest.mark.parametrize("name", ["nonl", "normface", "cross_entropy"])
def test_prototypes_may_be_split_over_classes(name):
    inputs = make(4, (ROWS, 8, DIMS))
    parts = split(name, inputs)
    mesh = jax.make_mesh((4, 2), ("b", "m"))
    with jax.set_mesh(mesh):
        used, rest = place(mesh, parts)
        used["prototypes"] = jax.device_put(inputs.prototypes, NamedSharding(mesh, P("m")))
        got = jax.jit(value_and_slopes(name, inputs))(used, rest)
    assert_equal(got, jax.jit(value_and_slopes(name, inputs))(*parts))
    assert got[1]["prototypes"].sharding.spec[0] == "m"


@pytest.mark.parametrize("name", ["nonl", "normface"])
def test_losses_with_soft_labels_in_blocks(name):
    inputs = make(5, (ROWS, 8, DIMS), masked=False)
    soft = np.random.default_rng(0).dirichlet(np.ones(8), ROWS).astype(np.float32)
    mesh = jax.make_mesh((8,), ("b",))

    def mean(features, prototypes, labels):
        found = getattr(losses, name)(features, prototypes, labels, temperature=0.2, class_block=3)
        return found.mean()

    step = jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))
    right = step(inputs.features, inputs.prototypes, soft)
    with jax.set_mesh(mesh):
        features, labels = jax.device_put((inputs.features, soft), NamedSharding(mesh, P("b")))
        got = step(features, inputs.prototypes, labels)
    jax.tree.map(close, got, right)


def sample():
    random = np.random.default_rng(0)
    labels = (np.arange(96) % FEW).astype(np.int32)
    features = random.normal(size=(FEW, DIMS))[labels] + 0.3 * random.normal(size=(96, DIMS))
    return features.astype(np.float32), labels, random.random(96) < 0.8


FITTED = np.random.default_rng(1).normal(size=(FEW, DIMS)).astype(np.float32)
FUNCTIONS = {
    "fit": lambda x, y, w: fit(x, y, num_classes=FEW, where=w),
    "accumulator": lambda x, y, w: finish(merge(init(FEW, DIMS), update(init(FEW, DIMS), x, y, w))),
    "predict": lambda x, y, w: predict(x, FITTED),
    "logits": lambda x, y, w: logits(x, FITTED, temperature=0.1),
    "class_means": lambda x, y, w: class_stats.class_means(x, y, num_classes=FEW, where=w),
    "effective_rank": lambda x, y, w: spectra.effective_rank(x),
    "neural_collapse": lambda x, y, w: geometry.neural_collapse(
        x, y, FITTED, num_classes=FEW, where=w, bias=np.zeros(FEW, np.float32)
    ),
}


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("set_mesh", [True, False], ids=["set_mesh", "by its arguments"])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_geometry_and_prototypes(name, set_mesh, jit):
    function = jax.jit(FUNCTIONS[name]) if jit else FUNCTIONS[name]
    right = function(*sample())
    mesh = jax.make_mesh((8,), ("b",))
    placed = jax.device_put(sample(), NamedSharding(mesh, P("b")))
    if set_mesh:
        with jax.set_mesh(mesh):
            got = function(*placed)
    else:
        got = function(*placed)
    jax.tree.map(functools.partial(close, rtol=1e-4, atol=1e-5), got, right)
    if name in ("predict", "logits"):
        assert got.sharding.spec[0] == "b"


def test_gradients_of_logits_and_of_fitted_prototypes():
    features, labels, where = sample()

    def objective(x, y, w):
        fitted = fit(x, y, num_classes=FEW, where=w)
        return jnp.sum(jax.nn.log_softmax(logits(x, FITTED)) ** 2), fitted

    step = jax.jit(jax.grad(objective, has_aux=True))
    right = step(features, labels, where)
    mesh = jax.make_mesh((8,), ("b",))
    with jax.set_mesh(mesh):
        got = step(*jax.device_put((features, labels, where), NamedSharding(mesh, P("b"))))
    jax.tree.map(close, got, right)
