"""Fixed prototypes are exact class means, however the rows come, and classify by angle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hsproto import prototypes

K, D, BATCH = 5, 12, 16


def sample(seed, rows=6 * BATCH):
    random = np.random.default_rng(seed)
    labels = random.integers(-1, K + 1, rows).astype(np.int32)
    features = random.normal(size=(K + 2, D))[labels] + 0.5 * random.normal(size=(rows, D))
    features *= random.uniform(0.1, 10, size=(rows, 1))
    return features.astype(np.float32), labels, random.random(rows) < 0.8


def exact_prototypes(features, labels, where):
    means = np.zeros((K, D))
    for c in range(K):
        own = features[where & (labels == c)].astype(np.float64)
        if len(own):
            mean = (own / np.linalg.norm(own, axis=1, keepdims=True)).mean(axis=0)
            means[c] = mean / np.linalg.norm(mean)
    return means


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 999))
def test_fit_is_the_direction_of_the_mean_of_unit_features(seed):
    features, labels, where = sample(seed)
    fitted = prototypes.fit(features, labels, num_classes=K, where=where)
    np.testing.assert_allclose(fitted, exact_prototypes(features, labels, where), atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 999), order=st.permutations(range(6)), at=st.integers(1, 5))
def test_batches_merged_in_any_order_equal_one_fit(seed, order, at):
    features, labels, where = sample(seed)
    parts = [slice(BATCH * i, BATCH * (i + 1)) for i in order]

    def accumulate(chosen):
        accumulator = prototypes.init(K, D)
        for rows in chosen:
            accumulator = prototypes.update(accumulator, features[rows], labels[rows], where[rows])
        return accumulator

    merged = prototypes.merge(accumulate(parts[:at]), accumulate(parts[at:]))
    whole = prototypes.update(prototypes.init(K, D), features, labels, where)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    np.testing.assert_allclose(merged.means, whole.means, atol=3e-7)
    np.testing.assert_allclose(merged.scatter, whole.scatter, 1e-5, 1e-6)
    np.testing.assert_allclose(
        prototypes.finish(merged),
        prototypes.fit(features, labels, num_classes=K, where=where),
        atol=1e-6,
    )


def test_merging_with_nothing_changes_nothing():
    features, labels, _ = sample(0)
    accumulator = prototypes.update(prototypes.init(K, D), features, labels)
    for merged in (
        prototypes.merge(accumulator, prototypes.init(K, D)),
        prototypes.merge(prototypes.init(K, D), accumulator),
    ):
        jax.tree.map(np.testing.assert_array_equal, merged, accumulator)


def test_rows_sharded_over_eight_devices_give_the_same_prototypes():
    features, labels, where = sample(3)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = [jax.device_put(x, rows) for x in (features, labels, where)]
    expected = prototypes.fit(features, labels, num_classes=K, where=where)
    fit = functools.partial(prototypes.fit, num_classes=K)
    np.testing.assert_allclose(fit(*sharded[:2], where=sharded[2]), expected, atol=1e-6)
    jitted = jax.jit(lambda x, y, w: fit(x, y, where=w))
    np.testing.assert_allclose(jitted(*sharded), expected, atol=1e-6)


def test_each_device_accumulates_its_own_rows_and_their_merge_is_the_whole():
    """Inside shard_map, with its default checks."""
    features, labels, where = sample(3)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data")
    )
    def accumulate(x, y, w):
        found = prototypes.update(prototypes.init(K, D), x, y, w)
        return jax.tree.map(lambda array: array[None], found)

    parts = jax.jit(accumulate)(features, labels, where)
    merged = prototypes.init(K, D)
    for device in range(8):
        part = jax.tree.map(lambda array, i=device: array[i], parts)
        merged = prototypes.merge(merged, part)
    expected = prototypes.fit(features, labels, num_classes=K, where=where)
    np.testing.assert_allclose(prototypes.finish(merged), expected, atol=1e-6)


def test_a_row_that_is_not_finite_costs_its_class_alone():
    features, labels = np.eye(K, D, dtype=np.float32), np.arange(K)
    features[1, 0] = np.nan
    fitted = prototypes.fit(features, labels, num_classes=K)
    assert np.all(np.isfinite(fitted)) and not np.any(fitted[1])
    predicted = prototypes.predict(features, fitted)
    np.testing.assert_array_equal(predicted, np.where(labels == 1, -1, labels))
    broken = fitted.at[2].set(np.nan)  # of another origin than `fit`
    assert 2 not in prototypes.predict(features, broken)


def test_separable_classes_are_told_apart_and_length_does_not_matter():
    corners = np.eye(K, D, dtype=np.float32)
    labels = np.arange(50) % K
    features = corners[labels] + 0.1 * np.random.default_rng(0).normal(size=(50, D))
    fitted = prototypes.fit(features.astype(np.float32), labels, num_classes=K)
    np.testing.assert_array_equal(prototypes.predict(100 * features, fitted), labels)
    np.testing.assert_array_equal(prototypes.predict(features, 1e-3 * fitted), labels)


def test_a_class_without_rows_is_never_predicted():
    features, labels, _ = sample(1)
    where = labels != 2
    fitted = prototypes.fit(features, labels, num_classes=K, where=where)
    np.testing.assert_array_equal(fitted[2], 0)
    # Away from all prototypes, 0 would be the best cosine of all.
    away = -np.asarray(fitted).sum(axis=0, keepdims=True)
    scores = prototypes.logits(np.concatenate([features, away]), fitted)
    assert np.all(np.isneginf(scores[:, 2])) and np.all(np.isfinite(np.delete(scores, 2, axis=1)))
    assert not np.any(prototypes.predict(np.concatenate([features, away]), fitted) == 2)
    np.testing.assert_allclose(jax.nn.softmax(scores).sum(axis=1), 1, 1e-5)


def test_directions_that_cancel_make_no_prototype():
    ways = np.array([[1, 0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)], [0, 2]], np.float32)
    fitted = prototypes.fit(ways, np.array([0, 0, 0, 1]), num_classes=2)
    np.testing.assert_array_equal(fitted, [[0, 0], [0, 1]])


def test_classes_come_and_go_without_training():
    features, labels, _ = sample(5)
    own = (labels >= 0) & (labels < K)
    features, labels = features[own], labels[own]
    everything = prototypes.fit(features, labels, num_classes=K)
    late = labels == K - 1
    known = prototypes.fit(features[~late], labels[~late], num_classes=K - 1)
    new = prototypes.fit(features[late], np.zeros(late.sum(), np.int32), num_classes=1)
    grown = jnp.concatenate([known, new])
    np.testing.assert_allclose(grown, everything, atol=1e-6)
    np.testing.assert_array_equal(
        prototypes.predict(features, grown), prototypes.predict(features, everything)
    )
    # Without class 0 its images go to others, and all that were told as others stay so.
    before = np.asarray(prototypes.predict(features, everything))
    after = np.asarray(prototypes.predict(features, np.delete(everything, 0, axis=0))) + 1
    np.testing.assert_array_equal(after[before != 0], before[before != 0])


def test_no_rows_at_all_predict_no_class():
    features, labels, where = sample(0)
    fitted = prototypes.fit(features, labels, num_classes=K, where=np.zeros_like(where))
    np.testing.assert_array_equal(fitted, 0)
    np.testing.assert_array_equal(prototypes.predict(features, fitted), -1)


def test_logits_are_cosines_over_the_temperature():
    features, labels, where = sample(0)
    fitted = exact_prototypes(features, labels, where)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    scores = prototypes.logits(features, 7 * fitted.astype(np.float32), temperature=0.1)
    np.testing.assert_allclose(scores, units @ fitted.T / 0.1, atol=1e-5)
    assert np.all(prototypes.logits(np.zeros((1, D), np.float32), jnp.asarray(fitted)) == 0)


def test_rows_that_do_not_count_may_hold_anything():
    features, labels, where = sample(4)
    expected = prototypes.fit(features, labels, num_classes=K, where=where)
    features[~where] = np.nan
    features[(labels < 0) | (labels >= K)] = np.inf
    fitted = prototypes.fit(features, labels, num_classes=K, where=where)
    np.testing.assert_array_equal(fitted, expected)


def test_bfloat16_features_are_averaged_in_float32():
    features, labels, where = sample(2)
    rounded = jnp.asarray(features, jnp.bfloat16)
    fitted = prototypes.fit(rounded, labels, num_classes=K, where=where)
    expected = exact_prototypes(np.asarray(rounded, np.float32), labels, where)
    assert fitted.dtype == jnp.float32
    np.testing.assert_allclose(fitted, expected, atol=1e-6)


def test_bad_arguments_are_named():
    features, labels, _ = sample(0)
    with pytest.raises(ValueError, match="temperature must be a positive finite number; got 0"):
        prototypes.logits(features, features[:K], temperature=0)
    with pytest.raises(ValueError, match="prototypes must have 12 columns"):
        prototypes.predict(features, features[:K, :3])
    with pytest.raises(ValueError, match=r"labels must have shape \(96,\)"):
        prototypes.fit(features, labels[:5], num_classes=K)
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1; got 2.5"):
        prototypes.fit(features, labels, num_classes=2.5)
    with pytest.raises(ValueError, match="features must have 3 columns"):
        prototypes.update(prototypes.init(K, 3), features, labels)
