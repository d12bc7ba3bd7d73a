"""Neural Collapse is measured right: against the definitions, at collapse, and where data lack."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle_geometry as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hsproto import geometry
from hsproto.core import class_stats, nc_metrics, spectra
from hsproto.core.simplex import simplex_etf

# Rows per class and dimensions: fewer rows than dimensions, both, more; more classes than
# dimensions; a class of one row and one of none.
SHAPES = [
    ((24, 24, 24, 24), 40),
    ((150, 60, 20, 10), 40),
    ((20,) * 12, 8),
    ((30, 0, 1, 25), 40),
]
K, D = 4, 40
WITHIN = "erank_intra instance_alignment nc1 cdnv".split()
OF_ONE_CLASS = "classes_counted erank_intra instance_alignment weight_alignment class_alignment nc4"


def labels_of(counts, seed=0):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    return np.random.default_rng(seed).permutation(labels)


def sample(counts, dim, spread, seed=0, non_negative=False):
    """Features (rows of any length), labels, prototypes near the class means, and a bias."""
    random = np.random.default_rng(seed)
    labels = labels_of(counts)
    means = random.normal(size=(len(counts), dim))
    features = means[labels] + spread * random.normal(size=(len(labels), dim))
    if non_negative:
        features = np.maximum(features, 0)
    features *= random.uniform(0.5, 3, size=(len(labels), 1))
    prototypes = means + 0.3 * random.normal(size=means.shape)
    bias = random.normal(size=len(counts))
    return (features.astype(np.float32), labels, prototypes.astype(np.float32), bias)


def assert_agree(measured, expected, tolerance=1e-4, floor=1e-6):
    assert set(measured) == set(expected)
    for key, value in expected.items():
        assert measured[key].dtype == jnp.float32 and measured[key].shape == ()
        np.testing.assert_allclose(measured[key], value, tolerance, floor, err_msg=key)


def measure(features, labels, prototypes=None, **options):
    return geometry.neural_collapse(features, labels, prototypes, **({"num_classes": K} | options))


def simplex(classes=K, dim=D):
    return np.asarray(simplex_etf(jax.random.key(0), classes, dim))


@pytest.mark.parametrize("counts, dim", SHAPES)
@settings(deadline=None, max_examples=6)
@given(
    seed=st.integers(0, 99),
    spread=st.sampled_from([1.0, 0.1, 1e-2, 1e-3, 0.0]),
    non_negative=st.booleans(),
)
def test_agrees_with_the_definitions(counts, dim, seed, spread, non_negative):
    features, labels, prototypes, bias = sample(counts, dim, spread, seed, non_negative)
    options = dict(num_classes=len(counts), bias=bias.astype(np.float32))
    measured = geometry.neural_collapse(features, labels, prototypes, **options)
    assert_agree(measured, oracle.neural_collapse(features, labels, prototypes, **options))


def test_without_prototypes_there_are_the_measures_of_features_alone():
    features, labels, _, _ = sample(*SHAPES[0], 1.0)
    measured = measure(features, labels)
    assert_agree(measured, oracle.neural_collapse(features, labels, num_classes=K))
    assert set(measured) < set(geometry.optimum(K))


@pytest.mark.parametrize("rows", [24, 96])
def test_traced_labels_give_the_same_as_known_ones(rows):
    features, labels, prototypes, _ = sample(*SHAPES[0], 0.5)
    data = features[:rows], labels[:rows], prototypes
    traced = jax.jit(measure)(*data)
    assert_agree(traced, {key: float(value) for key, value in measure(*data).items()}, 2e-5)
    assert_agree(traced, oracle.neural_collapse(*data, num_classes=K))


@pytest.mark.parametrize("traced", [False, True])
def test_rows_sharded_over_eight_devices_give_the_same_as_on_one(traced):
    features, labels, prototypes, _ = sample(*SHAPES[1], 0.5)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = NamedSharding(mesh, PartitionSpec("data"))
    function = jax.jit(measure) if traced else measure
    with_rows = [jax.device_put(x, sharded) for x in (features, labels)]
    everywhere = jax.device_put(prototypes, NamedSharding(mesh, PartitionSpec()))
    expected = oracle.neural_collapse(features, labels, prototypes, num_classes=K)
    assert_agree(function(*with_rows, everywhere), expected)


def test_a_training_set_of_imagenet_takes_little_memory_beside_its_features():
    rows, classes, dim = 1_281_168, 1000, 2048
    shape = jax.ShapeDtypeStruct
    features, labels = shape((rows, dim), jnp.float32), shape((rows,), jnp.int32)
    stats = jax.eval_shape(lambda: class_stats.init(classes, dim))
    square, centre = shape((dim, classes), jnp.float32), shape((dim,), jnp.float32)
    widths, groups = spectra.plan_classes(np.linspace(732, 1300, classes).astype(int), dim)
    to_size = jax.tree_util.Partial(nc_metrics.to_size, shape((), jnp.int32))
    lowered = [
        nc_metrics._statistics.lower(features, labels, None, classes),
        class_stats._update.lower(stats, features, labels, None, to_size),
        spectra.mean_class_rank.lower(features, labels, None, stats, groups, widths=widths),
        nc_metrics.of_rows.lower(
            features,
            labels,
            None,
            to_size,
            stats,
            (stats.means, centre, square),
            stats.means,
            None,
        ),
    ]
    for part in lowered:
        memory = part.compile().memory_analysis()
        assert memory.temp_size_in_bytes < 0.02 * memory.argument_size_in_bytes


def test_known_labels_of_traced_features_are_counted_as_such():
    features = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    labels = jnp.arange(24) % 4
    found = jax.jit(lambda x: geometry.neural_collapse(x, labels, num_classes=4))(features)
    expected = geometry.neural_collapse(features, labels, num_classes=4)
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, err_msg=key)


def test_under_jit_too_no_second_copy_of_the_features_is_made():
    shape = jax.ShapeDtypeStruct
    arrays = shape((400_000, 256), jnp.float32), shape((400_000,), jnp.int32)
    function = jax.jit(lambda *data: geometry.neural_collapse(*data, num_classes=100))
    memory = function.lower(*arrays).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.4 * memory.argument_size_in_bytes


@pytest.mark.parametrize("rows", [96, 97])
def test_blocks_of_rows_add_up_to_all_rows(rows, monkeypatch):
    monkeypatch.setattr(class_stats, "BLOCK_ELEMENTS", 20 * 7)
    blocks = class_stats.row_blocks(rows, 7)
    assert blocks.count > 1
    seen = [
        np.asarray(blocks.take(jnp.arange(rows), i))[blocks.fresh(i)] for i in range(blocks.count)
    ]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(rows))

    random = np.random.default_rng(0)
    features = (100 + random.normal(size=(rows, 7))).astype(np.float32)
    labels = random.integers(0, 3, rows).astype(np.int32)
    stats = class_stats.update(class_stats.init(3, 7), features, labels)
    for c in range(3):
        own = features[labels == c].astype(np.float64)
        np.testing.assert_allclose(stats.means[c], own.mean(axis=0), 1e-7)
        np.testing.assert_allclose(stats.scatter[c], own.var(axis=0).sum() * len(own), 1e-4)


def test_class_means_stay_exact_over_many_rows():
    features = np.full((300_000, 3), [0.1, 1000.1, -3e-5], np.float32)
    means, counts = class_stats.class_means(features, np.zeros(300_000, int), num_classes=2)
    np.testing.assert_allclose(means[0], features[0], 2e-7)
    np.testing.assert_array_equal(means[1], 0)
    np.testing.assert_array_equal(counts, [300_000, 0])


def test_at_an_exact_simplex_every_measure_has_its_optimum():
    corners, labels = simplex(), labels_of(SHAPES[0][0])
    lengths = np.random.default_rng(0).uniform(0.5, 3, size=(K, 1)).astype(np.float32)
    # Lengths may differ between prototypes: only nc3 asks them to be proportional to the means.
    measured = measure(corners[labels], labels, 2.5 * corners)
    for key, value in geometry.optimum(K, D).items():
        if value is not None:
            np.testing.assert_allclose(measured[key], value, 1e-5, 1e-6, err_msg=key)
    assert measured["erank_intra"] == 0
    stretched = measure(corners[labels], labels, lengths * corners)
    assert stretched["nc3"] > 0.1
    np.testing.assert_allclose(stretched["erank_weights"], K - 1, 1e-5)


def test_the_optimum_of_two_classes_has_no_entropy_to_share():
    corners, labels = simplex(2), labels_of((40, 56))
    measured = measure(corners[labels], labels, corners, num_classes=2)
    for key in "mir mir_gap mir_centered hdr hdr_centered nc1 nc3".split():
        np.testing.assert_allclose(measured[key], 0, atol=1e-6)
    np.testing.assert_allclose(measured["cosine_means_mean"], -1, 1e-6)


@pytest.mark.parametrize("classes, value", [(10, 0.9524), (100, 0.9978), (1000, 0.99986)])
def test_mir_at_collapse_is_below_one(classes, value):
    best = geometry.optimum(classes)["mir"]
    np.testing.assert_allclose(best, value, atol=5e-5)
    n = classes - 1
    gram = (classes * np.eye(classes) - 1) / n
    np.testing.assert_allclose(best, oracle.mir_and_hdr(gram, gram)[0], 1e-9)
    np.testing.assert_allclose(spectra.mir_at_collapse(jnp.int32(classes)), best, 1e-6)


def test_where_no_simplex_fits_the_optimum_is_not_claimed():
    best = geometry.optimum(20, 8)
    assert best["cosine_means_mean"] is None and best["erank_inter"] is None
    assert best["nc1"] == best["weight_alignment"] == 0
    assert geometry.optimum(20, 19)["erank_inter"] == 19
    assert geometry.optimum(1)["cdnv"] is None
    assert set(geometry.optimum(20, 8)) == set(geometry.optimum(20))


def test_near_collapse_mir_and_hdr_depend_on_where_the_mean_of_means_points():
    labels = labels_of(SHAPES[0][0])
    shift = np.zeros(D, np.float32)
    shift[0] = 1e-4
    exact = measure(simplex()[labels], labels, simplex())
    near = measure(simplex()[labels] + shift, labels, simplex())
    assert exact["hdr"] < 1e-6 and near["hdr"] > 0.05
    assert near["nc1"] < 1e-6 and near["weight_alignment"] < 1e-6


def test_measures_of_directions_do_not_change_with_the_lengths_of_features():
    features, labels, prototypes, _ = sample(*SHAPES[0], 0.5)
    lengths = np.random.default_rng(1).uniform(0.1, 10, size=(len(labels), 1)).astype(np.float32)
    before, after = (measure(x, labels, prototypes) for x in (features, lengths * features))
    given = "nc1 nc2_equinorm nc2_equiangular cdnv nc3 nc4".split()
    for key in before:
        assert (key in given) != np.isclose(before[key], after[key], 1e-4), key


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1e10, 1e30])
def test_no_measure_changes_with_the_unit_of_the_features(scale):
    features, labels, prototypes, _ = sample(*SHAPES[0], 0.5)
    before, after = (
        measure(x, labels, prototypes) for x in (features, features * np.float32(scale))
    )
    assert_agree(after, {key: float(value) for key, value in before.items()}, 1e-5)


def test_all_features_equal_is_no_spread_at_all():
    features = np.tile(np.random.default_rng(0).normal(size=D), (96, 1)).astype(np.float32)
    measured = measure(features, labels_of(SHAPES[0][0]), np.tile(features[0], (K, 1)))
    for key in "erank_intra erank_inter erank_weights instance_alignment mir hdr".split():
        assert measured[key] == 0, key
    # No class is apart from another: 0/0 is no collapse.
    assert all(np.isnan(measured[key]) for key in ("nc1", "nc2_equinorm", "cdnv"))
    np.testing.assert_allclose(measured["cosine_means_mean"], 1, 1e-6)
    np.testing.assert_allclose(measured["weight_alignment"], 0, atol=1e-12)


def test_spread_around_means_that_coincide_is_the_opposite_of_collapse():
    random = np.random.default_rng(0)
    deviations = random.normal(size=(12, D))
    own = 3 + np.concatenate([deviations, -deviations])
    measured = measure(np.tile(own, (K, 1)).astype(np.float32), np.repeat(np.arange(K), 24))
    assert measured["nc1"] == measured["cdnv"] == np.inf
    assert np.isfinite(measured["erank_intra"]) and measured["erank_inter"] == 0


def test_equal_rows_in_each_class_collapse_however_many_they_are():
    means = np.random.default_rng(0).normal(size=(K, D)).astype(np.float32)
    labels = labels_of((3000, 500, 41, 2))
    measured = measure(means[labels], labels)
    for key in WITHIN:
        assert measured[key] == 0, key
    assert measured["erank_inter"] > 2


def test_a_class_of_one_row_has_no_spread_and_counts_between_classes():
    features, labels, prototypes, _ = sample((40, 30, 25, 1), D, 0.5)
    measured = measure(features, labels, prototypes)
    assert_agree(measured, oracle.neural_collapse(features, labels, prototypes, num_classes=K))
    others = measure(features, labels, where=labels != 3)
    np.testing.assert_allclose(measured["erank_intra"], others["erank_intra"], 1e-6)
    assert measured["classes_counted"] == 4 and others["classes_counted"] == 3


def test_a_missing_class_takes_its_prototype_along():
    features, labels, prototypes, bias = sample((40, 30, 0, 26), D, 0.5)
    bias[2] = 1e6
    measured = measure(features, labels, prototypes, bias=bias.astype(np.float32))
    left = np.array([0, 1, 3])
    expected = geometry.neural_collapse(
        features,
        np.array([0, 1, -1, 2], np.int32)[labels],
        prototypes[left],
        bias=bias[left].astype(np.float32),
        num_classes=3,
    )
    assert_agree(measured, {key: float(value) for key, value in expected.items()}, 1e-5)


def test_rows_that_do_not_count_may_hold_anything():
    features, labels, prototypes, _ = sample(*SHAPES[0], 0.5)
    clean = measure(features[:80], labels[:80], prototypes)
    where = np.arange(96) < 90
    features[80:90], labels[80:90] = np.inf, [-1, K, 2**30, -7, K + 1] * 2
    features[90:] = np.nan
    dirty = measure(features, labels, prototypes, where=where)
    assert_agree(dirty, {key: float(value) for key, value in clean.items()}, 1e-6)


@pytest.mark.parametrize("rows, counted", [(96, 0), (0, 0), (96, 1)])
def test_what_has_nothing_to_average_is_unknown_not_zero(rows, counted):
    features, labels, prototypes, _ = sample(*SHAPES[0], 0.5)
    where = (labels < counted)[:rows]
    measured = measure(features[:rows], labels[:rows], prototypes, where=where)
    assert measured["classes_counted"] == counted
    known = OF_ONE_CLASS.split() if counted else ["classes_counted"]
    for key, value in measured.items():
        assert np.isnan(value) != (key in known), key


def test_classes_of_one_row_each_leave_spread_unknown():
    features, _, prototypes, _ = sample(*SHAPES[0], 0.5)
    measured = measure(features[:K], np.arange(K), prototypes)
    for key, value in measured.items():
        assert np.isnan(value) == (key in WITHIN), key


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_not_passed_off_as_a_measure(bad):
    features, labels, prototypes, _ = sample(*SHAPES[0], 0.5)
    features[5, 3] = bad
    measured = measure(features, labels, prototypes)
    for key in WITHIN + "erank_inter nc2_equinorm nc3 nc4 mir weight_alignment".split():
        assert not np.isfinite(measured[key]), key


def test_non_negative_features_cannot_point_away_from_each_other():
    features, labels, prototypes, _ = sample(*SHAPES[0], 2.0, non_negative=True)
    measured = measure(features, labels, np.abs(prototypes))
    assert measured["cosine_means_mean"] >= 0
    assert measured["cosine_prototypes_mean"] >= 0
    assert measured["nc2_equinorm"] > 0


def test_ranks_do_not_see_what_all_prototypes_share_and_cosines_do():
    features, labels, _, _ = sample(*SHAPES[0], 0.5)
    corners = simplex()
    shared = np.linalg.svd(corners)[2][-1]  # orthogonal to all corners
    alone, sharing = (
        measure(features, labels, (corners + amount * shared).astype(np.float32))
        for amount in (0.0, 3.5)
    )
    np.testing.assert_allclose(alone["erank_weights"], K - 1, 1e-5)
    np.testing.assert_allclose(sharing["erank_weights"], K - 1, 1e-5)
    np.testing.assert_allclose(alone["cosine_prototypes_mean"], -1 / (K - 1), 1e-5)
    assert sharing["cosine_prototypes_mean"] > 0.89


def test_effective_rank_counts_equal_directions_and_is_free_of_scale():
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(60, 60)))[0]
    for rank in (1, 7, 60):
        matrix = (basis[:, :rank] @ basis[:rank, :40]).astype(np.float32)
        np.testing.assert_allclose(spectra.effective_rank(matrix), oracle.erank(matrix), 1e-4)
    equal = (basis[:, :7] @ basis[:7]).astype(np.float32)
    np.testing.assert_allclose(spectra.effective_rank(equal), 7, 1e-4)
    np.testing.assert_allclose(spectra.effective_rank(1e-30 * equal), 7, 1e-4)
    np.testing.assert_allclose(spectra.effective_rank(1e30 * equal), 7, 1e-4)
    assert spectra.effective_rank(np.zeros((3, 5), np.float32)) == 0
    assert spectra.effective_rank(np.zeros((0, 5), np.float32)) == 0
    assert np.isnan(spectra.effective_rank(np.full((3, 5), np.nan, np.float32)))


@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-4, 0.0])
def test_rounding_of_many_small_eigenvalues_does_not_look_like_spread(size):
    random = np.random.default_rng(0)
    rows = random.normal(size=(600, 256)) * np.r_[np.ones(5), np.full(251, size)]
    rows = (rows - rows.mean(axis=0)).astype(np.float32)
    gram = jnp.matmul(rows.T, rows, precision="highest")
    rank = spectra.exp_entropy(spectra.eigenvalues(gram))
    exact = oracle.erank(rows.T.astype(np.float64) @ rows.astype(np.float64))
    np.testing.assert_allclose(rank, exact, 5e-5)
    np.testing.assert_allclose(spectra.exp_entropy(spectra.singular_values(rows) ** 2), exact, 1e-5)


@pytest.mark.parametrize("classes, dim", [(1, 3), (2, 1), (5, 4), (10, 64), (100, 128)])
def test_simplex_etf_is_a_simplex(classes, dim):
    corners = np.asarray(simplex_etf(jax.random.key(1), classes, dim), np.float64)
    expected = np.full((classes, classes), -1 / max(classes - 1, 1))
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(corners @ corners.T, expected, atol=2e-6)
    other = simplex_etf(jax.random.key(2), classes, dim)
    assert dim == 1 or not np.allclose(corners, other, atol=1e-3)


def test_bad_arguments_are_named():
    features, labels, prototypes, bias = sample(*SHAPES[0], 0.5)
    with pytest.raises(ValueError, match="dim must be at least num_classes - 1 = 9.*got 8"):
        simplex_etf(jax.random.key(0), 10, 8)
    with pytest.raises(ValueError, match="prototypes must have num_classes = 4 rows.*3, 40"):
        measure(features, labels, prototypes[:3])
    with pytest.raises(ValueError, match="prototypes must have 40 columns"):
        measure(features, labels, prototypes[:, :5])
    with pytest.raises(ValueError, match=r"bias must have shape \(4,\)"):
        measure(features, labels, prototypes, bias=bias[:2])
    with pytest.raises(ValueError, match="give prototypes too"):
        measure(features, labels, bias=bias)
    with pytest.raises(ValueError, match="labels must be integers"):
        measure(features, labels.astype(float))
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1; got 0"):
        class_stats.class_means(features, labels, num_classes=0)
    with pytest.raises(ValueError, match="matrix must have shape"):
        spectra.effective_rank(features[0])
