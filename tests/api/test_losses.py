"""What each loss is, on one device: the equations, the mask, the undefined cases, the errors.

Tolerances. A float32 cosine is known to about 1e-7, a logit is a cosine over the temperature, so
absolute errors are counted in units of 1/temperature: 1e-5 at a temperature of 0.1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_losses import (
    NAMES,
    WITH_PROTOTYPES,
    WITH_TEMPERATURE,
    anchors,
    arguments,
    call,
    gradient,
    make,
)

from hsproto import losses

# (B, K, D): ordinary, K > B, one row, two classes, one class in one dimension. Few, as compiling
# takes nearly all the time here.
SHAPES = ((16, 5, 8), (6, 13, 4), (1, 3, 4), (9, 2, 3), (7, 1, 1))
seeds = st.integers(0, 2**31 - 1)


def float64(inputs):
    wide = {k: np.asarray(getattr(inputs, k), np.float64) for k in ("features", "prototypes")}
    wide |= {"bias": np.float64(inputs.bias), "temperature": np.float64(inputs.temperature)}
    return inputs._replace(**wide)


@functools.cache
def compiled(name):
    """jit of: inputs -> (PerAnchor, its mean, gradients of the mean by argument name)."""

    def both(inputs):
        def mean(parts):
            found = call(losses, name, inputs._replace(**parts))
            return found.mean(), found

        parts = {argument: getattr(inputs, argument) for argument in arguments(name)}
        (value, found), slopes = jax.value_and_grad(mean, has_aux=True)(parts)
        return found, value, slopes

    return jax.jit(both)


def run(name, inputs):
    return jax.tree.map(np.asarray, compiled(name)(inputs))


def scale(name, temperature):
    """Size of the logits whose rounding a value inherits."""
    return 1 / float(temperature) if name in WITH_TEMPERATURE else 10.0


def assert_close(name, got, expected, temperature):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * scale(name, temperature))


def assert_matches_oracle(name, inputs, gradient_rtol=0.0):
    wide = float64(inputs)
    expected = anchors(name, wide)
    found, mean, slopes = run(name, inputs)
    np.testing.assert_array_equal(found.valid, expected.valid)
    assert found.values.dtype == np.float32
    assert np.all(found.values[~found.valid] == 0)
    assert_close(name, found.values, expected.values, inputs.temperature)
    assert_close(name, mean, expected.mean(), inputs.temperature)
    unit = scale(name, inputs.temperature)
    for argument, got in slopes.items():
        right = gradient(name, wide, argument)
        rounding = unit**2 if argument == "temperature" else unit / len(inputs.labels)
        # A logit that is off by e moves its softmax weight by the factor 1 + e.
        amplified = max(1.0, unit / 10)
        np.testing.assert_allclose(
            got.astype(np.float64),
            right,
            rtol=gradient_rtol,
            atol=amplified * (1e-5 * np.abs(right).max() + 1e-6 * rounding),
            err_msg=argument,
        )


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=20)
@given(
    seed=seeds,
    shape=st.sampled_from(SHAPES),
    temperature=st.sampled_from((0.01, 0.05, 0.1, 0.5, 1.0)),
    kind=st.sampled_from(("random", "collapsed", "opposed")),
    masked=st.booleans(),
)
def test_values_and_gradients_are_those_of_the_equations(
    name, seed, shape, temperature, kind, masked
):
    assert_matches_oracle(name, make(seed, shape, temperature, kind, masked))


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_are_those_of_the_equations(name):
    inputs = make(21, (7, 4, 5), 0.25, masked=True)
    direction = np.random.default_rng(0).normal(size=inputs.features.shape)

    def slope(features):
        moved = inputs._replace(features=features)
        return jax.grad(lambda x: call(losses, name, moved._replace(features=x)).mean())(features)

    _, got = jax.jit(lambda x, v: jax.jvp(slope, (x,), (v,)))(
        inputs.features, np.float32(direction)
    )
    wide, step = float64(inputs), 1e-5
    ahead, behind = (
        gradient(name, wide._replace(features=wide.features + h * direction), "features")
        for h in (step, -step)
    )
    right = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(got, right, atol=1e-4 * np.abs(right).max())


SHORT = [(name, "bfloat16") for name in NAMES] + [("nonl", "float16"), ("scl", "float16")]


@pytest.mark.parametrize(("name", "dtype"), SHORT)
def test_short_floats_are_taken_at_their_value_and_computed_in_float32(name, dtype):
    dtype = jnp.dtype(dtype)
    inputs = make(1, SHAPES[0], 0.1, dtype=dtype)
    assert_matches_oracle(name, inputs, gradient_rtol=float(jnp.finfo(dtype).eps))
    assert run(name, inputs)[2]["features"].dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_jit_eager_and_a_python_temperature_agree(name):
    inputs = make(2, SHAPES[0], 0.25)
    found, mean, _ = run(name, inputs)
    eager = call(losses, name, inputs._replace(temperature=0.25))
    np.testing.assert_allclose(eager.values, found.values, rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(eager.valid, found.valid)
    np.testing.assert_allclose(eager.mean(), mean, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_masked_rows_and_labels_out_of_range_count_as_if_they_were_not_there(name):
    inputs = make(3, SHAPES[0], masked=False)
    outside = -1 if name == "scl" else SHAPES[0][1]  # SCL is not told the number of classes
    keep = np.ones(16, bool)
    keep[[2, 3, 7, 15]] = False
    labels = inputs.labels.copy()
    labels[[2, 15]] = -1, outside
    where = keep | (labels != inputs.labels)
    found, mean, slopes = run(name, inputs._replace(labels=labels, where=where))
    rest = {k: getattr(inputs, k)[keep] for k in ("features", "labels", "where")}
    right, right_mean, right_slopes = run(name, inputs._replace(**rest))
    np.testing.assert_array_equal(found.valid[keep], right.valid)
    assert not found.valid[~keep].any() and not found.values[~keep].any()
    np.testing.assert_allclose(found.values[keep], right.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean, right_mean, rtol=1e-5)
    assert not slopes["features"][~keep].any()
    right_slopes["features"] = np.insert(right_slopes["features"], [2, 2, 5, 12], 0, axis=0)
    for argument, got in slopes.items():
        np.testing.assert_allclose(got, right_slopes[argument], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_what_masked_rows_hold_harms_neither_values_nor_gradients(name, garbage):
    inputs = make(4, SHAPES[0])
    counts = inputs.where & (inputs.labels >= 0) & (inputs.labels < SHAPES[0][1])
    assert 0 < counts.sum() < 16
    features = np.where(counts[:, None], inputs.features, np.float32(garbage))
    assert_matches_oracle(name, inputs._replace(features=features))


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1]], ids=["K<B", "K>B"])
def test_a_row_that_counts_and_is_not_finite_shows_in_the_mean(name, shape, garbage):
    # Otherwise a run that has diverged would look as if it had converged.
    inputs = make(5, shape, masked=False)
    inputs = inputs._replace(labels=np.arange(shape[0], dtype=np.int32) // 2)
    inputs.features[1, 0] = garbage
    assert not np.isfinite(run(name, inputs)[1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1]], ids=["K<B", "K>B"])
def test_no_rows_at_all_give_zero_and_zero_gradients(name, shape):
    inputs = make(5, shape, masked=False)
    for empty in (
        inputs._replace(where=np.zeros(shape[0], bool)),
        inputs._replace(labels=np.full(shape[0], -1, np.int32)),
    ):
        found, mean, slopes = run(name, empty)
        assert mean == 0 and not found.values.any() and not found.valid.any()
        assert all(not slope.any() for slope in slopes.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1]], ids=["K<B", "K>B"])
def test_features_and_prototypes_of_length_zero_give_finite_values_and_gradients(name, shape):
    inputs = make(6, shape, masked=False)
    inputs.features[:2] = 0
    inputs.prototypes[inputs.labels[0]] = 0
    found, mean, slopes = run(name, inputs)
    assert found.valid[:2].all() or name in ("nonl", "scl")
    np.testing.assert_allclose(found.values, anchors(name, float64(inputs)).values, atol=2e-5)
    assert np.isfinite(mean) and all(np.isfinite(slope).all() for slope in slopes.values())


@pytest.mark.parametrize("length", [1e-20, 1e20])
@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_lengths_of_features_and_prototypes_do_not_matter(name, length):
    inputs = make(7, SHAPES[0])
    _, mean, slopes = run(name, inputs)
    scaled = {k: getattr(inputs, k) * np.float32(length) for k in ("features", "prototypes")}
    _, same, scaled_slopes = run(name, inputs._replace(**scaled))
    np.testing.assert_allclose(same, mean, rtol=1e-5)
    for argument in set(scaled) & set(slopes):  # the gradient goes as one over the length
        got, right = scaled_slopes[argument].astype(np.float64) * length, slopes[argument]
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-5)


def test_dot_regression_reads_the_length_of_a_prototype_but_not_of_a_feature():
    inputs = make(8, SHAPES[0])
    mean = run("dot_regression", inputs)[1]
    longer = inputs._replace(features=3 * inputs.features)
    np.testing.assert_allclose(run("dot_regression", longer)[1], mean, rtol=1e-5)
    larger = inputs._replace(prototypes=3 * inputs.prototypes)
    np.testing.assert_allclose(run("dot_regression", larger)[1], 9 * mean, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=5)
@given(seed=seeds)
def test_a_joint_rotation_changes_nothing_and_a_permutation_only_the_order(name, seed):
    inputs = make(seed, SHAPES[0])
    found, mean, _ = run(name, inputs)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    turned = {k: getattr(inputs, k) @ rotation for k in ("features", "prototypes")}
    np.testing.assert_allclose(
        run(name, inputs._replace(**turned))[0].values, found.values, rtol=1e-5, atol=1e-5
    )
    order = rng.permutation(16)
    shuffled = {k: getattr(inputs, k)[order] for k in ("features", "labels", "where")}
    got, same_mean, _ = run(name, inputs._replace(**shuffled))
    np.testing.assert_array_equal(got.valid, found.valid[order])
    np.testing.assert_allclose(got.values, found.values[order], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(same_mean, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_labels_may_be_integers_of_any_width(name, dtype):
    # 300 classes do not fit into eight bits, the labels in use do.
    inputs = make(9, (6, 300, 4), masked=False)
    inputs = inputs._replace(labels=np.array([0, 1, 2, 100, 100, 127], np.int32))
    expected = anchors(name, float64(inputs))
    found = call(losses, name, inputs._replace(labels=jnp.asarray(inputs.labels.astype(dtype))))
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["nonl", "scl"])
def test_results_of_float32_stay_float32_where_64_bit_types_are_on(name):
    inputs = make(10, SHAPES[0])
    with jax.enable_x64(True):
        wide = jax.tree.map(jnp.asarray, inputs._replace(temperature=np.float64(0.2)))
        found = call(losses, name, wide)
        assert found.values.dtype == jnp.float32 and found.mean().dtype == jnp.float32
    np.testing.assert_allclose(found.values, run(name, inputs)[0].values, rtol=1e-5, atol=1e-5)


def test_labels_beyond_int32_are_masked_and_never_wrap_to_another_class():
    inputs = make(22, SHAPES[0], masked=False)
    wide = inputs.labels.astype(np.int64)
    wide[0] += 2**32
    found = losses.normface(inputs.features, inputs.prototypes, wide, temperature=0.1)
    assert not found.valid[0] and np.all(found.valid[1:])
    with pytest.raises(ValueError, match="labels must be below 2³¹-1.*np.unique"):
        losses.scl(inputs.features, wide + 2**33, temperature=0.1)


def test_nonl_has_no_value_where_the_batch_holds_one_class():
    inputs = make(11, SHAPES[0], masked=False)._replace(labels=np.full(16, 2, np.int32))
    found, mean, slopes = run("nonl", inputs)
    assert not found.valid.any() and mean == 0
    assert all(not slope.any() for slope in slopes.values())


def test_scl_has_no_value_for_an_anchor_without_a_positive():
    labels = np.array([0, 0, 1, 2, 2, 2] + [3] * 10, np.int32)
    inputs = make(12, SHAPES[0], masked=False)._replace(labels=labels)
    found, mean, _ = run("scl", inputs)
    np.testing.assert_array_equal(np.flatnonzero(~found.valid), [2])
    np.testing.assert_allclose(mean, found.values[found.valid].mean(), rtol=1e-6)
    alone = run("scl", inputs._replace(labels=np.arange(16, dtype=np.int32)))
    assert not alone[0].valid.any() and alone[1] == 0 and not alone[2]["features"].any()


@pytest.mark.parametrize("name", ["decoupled_normface", "prototype_softmax"])
def test_an_anchor_with_nothing_to_stand_against_has_no_value(name):
    inputs = make(13, (1, 1, 4), masked=False)
    found, mean, slopes = run(name, inputs)
    assert not found.valid.any() and mean == 0
    assert all(not slope.any() for slope in slopes.values())


@pytest.mark.parametrize("shape", [SHAPES[0], (8, 13, 4)], ids=["K<B", "K>B"])
def test_ntce_stands_against_every_row_of_the_batch_and_nonl_only_against_other_classes(shape):
    inputs = make(14, shape, masked=False)
    labels = inputs.labels.copy()
    labels[:6] = 0, 0, 1, 1, 2, 2

    def value_of_first(name, **hidden):
        where = np.ones(len(labels), bool)
        where[list(hidden.values())] = False
        return run(name, inputs._replace(labels=labels, where=where))[0].values[0]

    same_class, other_class = 1, 3
    for hidden in (same_class, other_class):
        assert abs(value_of_first("ntce", row=hidden) - value_of_first("ntce")) > 1e-3
    assert abs(value_of_first("nonl", row=other_class) - value_of_first("nonl")) > 1e-3
    np.testing.assert_allclose(
        value_of_first("nonl", row=same_class), value_of_first("nonl"), rtol=1e-6
    )


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1]], ids=["K<B", "K>B"])
def test_only_normface_moves_the_prototype_of_a_class_that_is_absent(shape):
    inputs = make(15, shape, masked=False)
    labels = np.where(inputs.labels == 1, 0, inputs.labels)
    labels[:2] = 0, 2
    inputs = inputs._replace(labels=labels)
    assert np.abs(run("normface", inputs)[2]["prototypes"][1]).max() > 1e-4
    assert np.abs(run("decoupled_normface", inputs)[2]["prototypes"][1]).max() > 1e-4
    for name in ("ntce", "nonl"):
        assert not run(name, inputs)[2]["prototypes"][1].any()


@pytest.mark.parametrize("name", ["ntce", "nonl"])
def test_prototypes_of_absent_classes_change_nothing_on_either_side_of_k_equal_to_b(name):
    inputs = make(16, (10, 14, 6), masked=False)
    labels = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 8], np.int32)  # 8 is masked below
    where = labels != 8
    results = []
    for num_classes in (9, 11):
        few = inputs.prototypes[:num_classes]
        results.append(run(name, inputs._replace(prototypes=few, labels=labels, where=where)))
    first = results[0]
    for found, _, slopes in results[1:]:
        np.testing.assert_allclose(found.values, first[0].values, rtol=1e-5, atol=1e-5)
        for argument in slopes:
            got, right = slopes[argument], first[2][argument]
            got = got[:9] if argument == "prototypes" else got
            np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-5)


def largest_array(function, *inputs):
    """Entries of the largest intermediate array that the traced function makes."""

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (int(np.prod(v.aval.shape)) for v in equation.outvars)
            for value in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(function)(*inputs).jaxpr))


@pytest.mark.parametrize("name", ["ntce", "nonl"])
@pytest.mark.parametrize("shape", [(64, 8, 4), (8, 64, 4)], ids=["K<B", "K>B"])
def test_ntce_and_nonl_need_the_smaller_of_a_batch_by_classes_and_a_batch_by_batch_matrix(
    name, shape
):
    assert largest_array(compiled(name), make(17, shape)) <= 8 * 64


@pytest.mark.parametrize("block_size", [1, 5, 100])
def test_scl_in_blocks_is_scl(block_size):
    inputs = make(18, SHAPES[0])
    found, mean, slopes = run("scl", inputs)

    @jax.jit
    def blocked(features):
        got = call(losses, "scl", inputs._replace(features=features), block_size=block_size)
        return got.mean(), got

    (got_mean, got), slope = jax.value_and_grad(blocked, has_aux=True)(inputs.features)
    np.testing.assert_array_equal(got.valid, found.valid)
    np.testing.assert_allclose(got.values, found.values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(slope, slopes["features"], rtol=1e-5, atol=1e-6)


def test_scl_in_blocks_never_holds_a_batch_by_batch_matrix():
    inputs = make(19, (96, 5, 4))

    def mean(features, block_size):
        found = call(losses, "scl", inputs._replace(features=features), block_size=block_size)
        return found.mean()

    needed = [
        largest_array(jax.grad(mean), inputs.features)
        for mean in (
            functools.partial(mean, block_size=8),
            functools.partial(mean, block_size=None),
        )
    ]
    assert needed[0] <= 8 * 96 < 96 * 96 <= needed[1]


def wrong(name):
    """(argument, value, what the message must tell) for each way to call the loss wrongly."""
    yield "features", np.ones(4, np.float32), r"features.*\(4,\)"
    yield "features", np.ones((4, 2, 2), np.float32), r"features.*\(4, 2, 2\)"
    yield "labels", np.zeros((4, 2), np.int32), r"labels.*\(4, 2\)"
    yield "labels", np.zeros(3, np.int32), r"labels.*\(3,\)"
    yield "labels", np.zeros(4, np.float32), r"labels.*integer.*float32"
    yield "labels", ["a", "b", "c", "a"], r"labels.*array.*list"
    yield "labels", None, r"labels.*array.*NoneType"
    yield "where", np.ones(3, bool), r"where.*\(3,\)"
    yield "where", np.ones(4, np.float32), r"where.*bool.*float32"
    if name in WITH_PROTOTYPES:
        yield "prototypes", np.ones((3, 7), np.float32), r"prototypes.*\(3, 7\)"
        yield "prototypes", np.ones(5, np.float32), r"prototypes.*\(5,\)"
    if name == "cross_entropy":
        yield "bias", np.ones(2, np.float32), r"bias.*\(2,\)"
    if name in WITH_TEMPERATURE:
        for value in (0, -0.1, np.float32(-1), float("nan"), True, "0.1", None, 1j):
            yield "temperature", value, rf"temperature.*positive.*{value}"


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_argument_is_refused_while_tracing_by_name_and_value(name):
    right = make(20, (4, 3, 5), masked=False)._replace(temperature=0.1)
    jax.eval_shape(lambda: call(losses, name, right))
    for argument, value, message in wrong(name):
        bad = right._replace(**{argument: value})
        with pytest.raises((TypeError, ValueError), match=message):
            jax.eval_shape(lambda bad=bad: call(losses, name, bad))


@pytest.mark.parametrize("num_classes", [0, -3, 2.5])
def test_a_wrong_number_of_classes_is_refused(num_classes):
    x, y = np.ones((4, 3), np.float32), np.zeros(4, np.int32)
    with pytest.raises((TypeError, ValueError), match=f"num_classes.*{num_classes}"):
        losses.prototype_softmax(x, y, num_classes=num_classes, temperature=0.1)


@pytest.mark.parametrize("block_size", [0, -1, 2.5])
def test_a_wrong_block_size_is_refused(block_size):
    x, y = np.ones((4, 3), np.float32), np.zeros(4, np.int32)
    with pytest.raises((TypeError, ValueError), match=f"block_size.*{block_size}"):
        losses.scl(x, y, temperature=0.1, block_size=block_size)
