"""Soft labels [B, K]: mixup and label smoothing, by their definitions in float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from oracle_losses import make

from hsproto import losses

pytestmark = pytest.mark.slow

NAMES = ("cross_entropy", "normface", "decoupled_normface", "ntce", "nonl")
SHAPES = {"K<B": (16, 5, 6), "K>B": (6, 13, 4), "K=2": (9, 2, 3)}
KINDS = ("dirichlet", "mixup", "smoothed", "one_hot")


def soft_labels(kind, labels, num_classes, seed=0):
    random = np.random.default_rng(seed)
    hot = np.eye(num_classes)[labels]
    if kind == "dirichlet":
        return random.dirichlet(np.ones(num_classes), len(labels)).astype(np.float32)
    if kind == "mixup":
        share = random.beta(1, 1, (len(labels), 1))
        return (share * hot + (1 - share) * hot[::-1]).astype(np.float32)
    if kind == "smoothed":
        return (0.9 * hot + 0.1 / num_classes).astype(np.float32)
    return hot.astype(np.float32)


def case(shape, kind, temperature=0.2, seed=0):
    inputs = make(seed, SHAPES[shape], temperature, masked=False)
    where = np.random.default_rng(seed).random(SHAPES[shape][0]) < 0.8
    where[:2] = True
    return inputs._replace(where=where), soft_labels(kind, inputs.labels, SHAPES[shape][1], seed)


def call(name, inputs, labels, **options):
    options = {"where": inputs.where, **options}
    if name == "cross_entropy":
        options["bias"] = inputs.bias
    else:
        options["temperature"] = inputs.temperature
    return getattr(losses, name)(inputs.features, inputs.prototypes, labels, **options)


def lse(logits):
    return np.logaddexp.reduce(logits) if len(logits) else -np.inf


def oracle(name, inputs, soft):
    """(values, valid) by the definition, in float64; a class no row may oppose has no sum."""
    features, prototypes = (np.asarray(x, np.float64) for x in inputs[:2])
    soft, where = soft.astype(np.float64), inputs.where
    if name == "cross_entropy":
        logits = features @ prototypes.T + inputs.bias
    else:
        features, prototypes = (
            x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, prototypes)
        )
        logits = features @ prototypes.T / float(inputs.temperature)
    rows, classes = soft.shape
    values, valid = np.zeros(rows), where.copy()
    for i in np.flatnonzero(where):
        for c in np.flatnonzero(soft[i]):
            if name in ("cross_entropy", "normface"):
                against = logits[i]
            elif name == "decoupled_normface":
                against = np.delete(logits[i], c)
            elif name == "ntce":
                against = logits[where, c]
            else:
                weights = (1 - soft[where, c]).clip(0)
                against = logits[where, c][weights > 0] + np.log(weights[weights > 0])
            valid[i] &= len(against) > 0
            values[i] += soft[i, c] * (lse(against) - logits[i, c]) if len(against) else 0
    return np.where(valid, values, 0), valid


@pytest.mark.parametrize("class_block", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_definition(name, shape, kind, class_block):
    inputs, soft = case(shape, kind)
    values, valid = oracle(name, inputs, soft)
    found = jax.jit(lambda soft: call(name, inputs, soft, class_block=class_block))(soft)
    np.testing.assert_array_equal(found.valid, valid)
    np.testing.assert_allclose(found.values, values, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("class_block", [None, 2])
@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("name", NAMES)
def test_one_hot_rows_are_hard_labels_in_value_and_gradient(name, shape, class_block):
    inputs, hot = case(shape, "one_hot", seed=3)

    def both(labels, **options):
        def mean(features, prototypes):
            moved = inputs._replace(features=features, prototypes=prototypes)
            found = call(name, moved, labels, **options)
            return found.mean(), found

        step = jax.value_and_grad(mean, argnums=(0, 1), has_aux=True)
        return jax.jit(step)(inputs.features, inputs.prototypes)

    (mean, found), slopes = both(hot, class_block=class_block)
    (right_mean, right), right_slopes = both(inputs.labels)
    np.testing.assert_array_equal(found.valid, right.valid)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(found.values, right.values)
    close(mean, right_mean)
    jax.tree.map(close, slopes, right_slopes)


@pytest.mark.parametrize("class_block", [None, 2])
@pytest.mark.parametrize("kind", ["mixup", "smoothed", "one_hot"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_pass_check_grads_in_float64(name, kind, class_block):
    with jax.enable_x64(True):
        inputs, soft = case("K<B", kind, 0.5)
        wide = {k: jnp.asarray(getattr(inputs, k), jnp.float64) for k in ("features", "prototypes")}

        @jax.jit
        def mean(parts):
            return call(name, inputs._replace(**parts), soft, class_block=class_block).mean()

        assert mean(wide).dtype == jnp.float64
        check_grads(mean, (wide,), order=1, modes=("fwd", "rev"), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_confident_logits_keep_their_digits(name):
    """All probability on one class: 1 minus it has no digits left."""
    inputs, soft = case("K<B", "smoothed", temperature=0.01)
    aligned = inputs.prototypes[inputs.labels]
    inputs = inputs._replace(features=20 * aligned if name == "cross_entropy" else aligned)
    values, valid = oracle(name, inputs, soft)
    found = call(name, inputs, soft)
    np.testing.assert_array_equal(found.valid, valid)
    np.testing.assert_allclose(found.values, values, rtol=1e-5, atol=1e-3)
    slope = jax.grad(lambda x: call(name, inputs._replace(features=x), soft).mean())(
        inputs.features
    )
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_zeros_and_a_masked_row_of_anything_are_not_there(name):
    inputs, soft = case("K<B", "dirichlet")
    keep = inputs.where.copy()
    keep[1] = False
    soft[1] = 0  # as jax.nn.one_hot has it of a label outside the classes
    dirty = soft.copy()
    dirty[~inputs.where] = np.nan
    features = np.where(keep[:, None], inputs.features, np.nan)
    found = call(name, inputs._replace(features=features), jnp.asarray(dirty))
    right = call(name, inputs._replace(where=keep), soft)
    np.testing.assert_array_equal(found.valid, right.valid)
    np.testing.assert_array_equal(found.values, right.values)
    slope = jax.grad(lambda x: call(name, inputs._replace(features=x), jnp.asarray(dirty)).mean())(
        features
    )
    assert np.all(np.isfinite(slope)) and not np.any(slope[~keep])


@pytest.mark.parametrize("name", ["ntce", "nonl"])
@pytest.mark.parametrize("soft_queue", [False, True])
def test_a_queue_has_hard_or_soft_labels(name, soft_queue):
    inputs, soft = case("K<B", "mixup", seed=1)
    inputs = inputs._replace(where=np.ones(16, bool))
    hot = soft_labels("one_hot", inputs.labels, 5)
    labels = np.concatenate([soft[:10], soft[10:] if soft_queue else hot[10:]])
    whole = call(name, inputs, labels)
    batch = inputs._replace(features=inputs.features[:10], where=inputs.where[:10])
    queue_labels = soft[10:] if soft_queue else inputs.labels[10:]
    found = call(name, batch, soft[:10], queue=(inputs.features[10:], queue_labels))
    np.testing.assert_array_equal(found.valid, whole.valid[:10])
    np.testing.assert_allclose(found.values, whole.values[:10], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("class_block", [None, 2])
@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_equal_one(name, class_block):
    inputs = make(2, (32, 5, 6), 0.2, masked=False)
    soft = soft_labels("mixup", inputs.labels, 5)
    where = np.random.default_rng(0).random(32) < 0.8
    options = {"axis_name": "b"} if name in ("ntce", "nonl") else {}

    def mean(axis_name, options, features, soft, where):
        moved = inputs._replace(features=features, where=where)
        return call(name, moved, soft, **options).mean(axis_name)

    mesh = jax.make_mesh((8,), ("b",))
    options["class_block"] = class_block
    step = jax.shard_map(
        jax.value_and_grad(functools.partial(mean, "b", options)),
        mesh=mesh,
        in_specs=P("b"),
        out_specs=(P(), P("b")),
    )
    with jax.set_mesh(mesh):
        rows = jax.device_put((inputs.features, soft, where), NamedSharding(mesh, P("b")))
        got = jax.jit(step)(*rows)
    whole = functools.partial(mean, None, {})
    right = jax.value_and_grad(whole)(inputs.features, soft, where)
    np.testing.assert_allclose(got[0], right[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], right[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_soft_labels_that_are_none_are_refused(name):
    inputs, soft = case("K<B", "dirichlet")
    with pytest.raises(ValueError, match=r"soft labels must have shape \(16, 5\)"):
        call(name, inputs, soft[:, :4])
    with pytest.raises(ValueError, match="soft labels must have rows >= 0 that sum to 1"):
        call(name, inputs, 2 * soft)
    with pytest.raises(ValueError, match="soft labels must have rows >= 0 that sum to 1"):
        call(name, inputs, np.eye(5, dtype=np.float32)[inputs.labels] * 2 - 0.2)
    with pytest.raises(ValueError, match="labels must be integers.*soft labels of shape"):
        call(name, inputs, soft[:, 0])


@pytest.mark.parametrize("name", ["scl", "prototype_softmax", "dot_regression"])
def test_losses_that_take_no_soft_labels_refuse_them(name):
    inputs, soft = case("K<B", "dirichlet")
    options = {"temperature": 0.1} if name != "dot_regression" else {}
    options |= {"num_classes": 5} if name == "prototype_softmax" else {}
    arguments = (inputs.features, soft)
    if name == "dot_regression":
        arguments = (inputs.features, inputs.prototypes, soft)
    with pytest.raises(ValueError, match="labels must have shape"):
        getattr(losses, name)(*arguments, **options)
