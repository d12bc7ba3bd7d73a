"""Three dimensions of many: exact where there are three, one honest projection where not."""

import json

import numpy as np
import pytest
from scipy.stats import ortho_group
from small_runs import recipe

from hsproto.data import load as load_lib
from hsproto.errors import UserError
from hsproto.models import architecture
from hsproto.reporting import directions
from hsproto.reporting.page import projection
from hsproto.runs import snapshots


def simplex(num_classes):
    rows = np.eye(num_classes) - 1 / num_classes
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def in_more(rows, dims, seed=0):
    """Rows [K, d] turned at random into `dims` dimensions."""
    return rows @ ortho_group.rvs(dims, random_state=seed)[: rows.shape[1]]


def step(features, means, number=1, prototypes=None):
    prototypes = means if prototypes is None else prototypes
    return {
        "step": number,
        "features": np.asarray(features, np.float32),
        "predicted": np.zeros(len(features), np.int32),
        "classes": np.arange(len(means), dtype=np.int32),
        "prototypes": np.asarray(prototypes, np.float32),
        "means": np.asarray(means, np.float32),
    }


def test_in_three_dimensions_places_are_the_directions_themselves():
    random = np.random.default_rng(0)
    features, means = random.normal(size=(7, 3)) * 5, random.normal(size=(4, 3))
    found = projection.coordinates([step(features, means)])
    assert found["exact"] and found["dimensions"] == 3
    assert found["share_means"] == found["share_features"] == 1
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(found["steps"][0]["features"], directions, atol=1e-4)


def test_two_dimensions_are_a_circle_in_the_ball():
    found = projection.coordinates([step([[3.0, 4.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])])
    assert found["steps"][0]["features"] == [[0.6, 0.8, 0.0], [0.0, 0.0, 0.0]]
    assert found["share_features"] == 1 and found["steps"][0]["radii"] == [2.0, 0.0]


def test_a_tetrahedron_in_ten_dimensions_is_shown_whole():
    means = in_more(simplex(4), 10)
    found = projection.coordinates([step(means, means)])
    assert not found["exact"] and found["share_means"] == found["share_features"] == 1
    places = np.array(found["steps"][0]["means"])
    np.testing.assert_allclose(places @ places.T, np.where(np.eye(4), 1, -1 / 3), atol=2e-4)


@pytest.mark.parametrize("num_classes", [5, 10])
def test_of_a_larger_simplex_three_directions_of_all_are_shown(num_classes):
    means = in_more(simplex(num_classes), 32)
    found = projection.coordinates([step(means, means)])
    assert found["share_means"] == pytest.approx(3 / (num_classes - 1), abs=1e-4)
    assert np.all(np.linalg.norm(found["steps"][0]["means"], axis=1) <= 1 + 1e-4)


def test_the_projection_loses_less_than_any_other():
    random = np.random.default_rng(1)
    means = directions.unit(random.normal(size=(8, 20)) + 0.5)
    axes = projection.projection(means)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    shown = np.sum((means @ axes) ** 2)
    for seed in range(20):
        assert np.sum((means @ ortho_group.rvs(20, random_state=seed)[:, :3]) ** 2) < shown
    # What the means have in common is kept: all lie to one side.
    assert np.linalg.norm(np.mean(means @ axes, axis=0)) > 0.3


def test_a_rotation_of_the_features_changes_nothing():
    random = np.random.default_rng(2)
    means = simplex(6) @ random.normal(size=(6, 12))
    expected = directions.unit(means) @ projection.projection(means)
    assert expected[0, 2] > 0 and np.allclose(expected[0, :2], 0), "the first class is the pole"
    assert expected[1, 0] > 0 and np.isclose(expected[1, 1], 0) and expected[2, 1] > 0
    for seed in range(3):
        turned = means @ ortho_group.rvs(12, random_state=seed)
        np.testing.assert_allclose(
            directions.unit(turned) @ projection.projection(turned), expected, atol=1e-9
        )


def test_two_classes_and_classes_all_the_same_have_a_picture():
    line = in_more(np.array([[1.0], [-1.0]]), 5)
    found = projection.coordinates([step(line, line)])
    assert found["steps"][0]["means"] == [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
    for means in (np.ones((3, 5)), np.zeros((3, 5))):
        found = projection.coordinates([step(means, means)])
        assert found["share_means"] == float(means.any())


def test_nearly_flat_means_are_shown_whole():
    """Classes that lie within a degree of a plane still have a third axis, at right angles."""
    flat = np.array([[1, 0, 0.01], [0, 1, -0.01], [-1, 0, 0.01], [0, -1, 0.01]])
    axes = projection.projection(in_more(flat, 7))
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    for seed in range(3):
        means = in_more(flat, 7, seed)
        places = directions.unit(means) @ projection.projection(means)
        np.testing.assert_allclose(
            places @ places.T, directions.unit(flat) @ directions.unit(flat).T
        )


def test_one_projection_serves_all_steps_and_is_that_of_the_last():
    random = np.random.default_rng(3)
    first, last = (step(random.normal(size=(9, 6)), random.normal(size=(5, 6)), i) for i in (1, 2))
    found = projection.coordinates([first, last])
    axes = projection.projection(last["means"])
    for arrays, shown in zip((first, last), found["steps"], strict=True):
        places = directions.unit(arrays["features"]) @ axes
        np.testing.assert_allclose(shown["features"], places, atol=1e-4)
        share = np.mean(np.sum(places**2, axis=1))
        assert shown["share_features"] == pytest.approx(share, abs=1e-4)
    assert found["share_features"] == found["steps"][1]["share_features"]


def test_lengths_are_told_by_the_median_of_the_last_step():
    first = step([[0, 0, 1], [0, 2, 0], [0, 0, 3]], 4 * np.eye(3), 1)
    last = step([[0, 0, 2], [0, 4, 0], [0, 0, 8]], 8 * np.eye(3), 2)
    found = projection.coordinates([first, last])["steps"]
    assert [s["radii"] for s in found] == [[0.25, 0.5, 0.75], [0.5, 1.0, 2.0]]
    assert [s["prototype_radii"] for s in found] == [[0.5] * 3, [1.0] * 3]


def test_what_is_returned_is_json():
    found = projection.coordinates([step(np.zeros((2, 4)), np.eye(3, 4), np.int64(5).item())])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert projection.coordinates([]) == {}


def written(workdir, steps):
    place = workdir / "snapshots"
    place.mkdir()
    rows = np.arange(2, dtype=np.int32)
    images = np.zeros((2, 4, 4, 1), np.uint8)
    np.savez(place / "points.npz", rows=rows, labels=rows, images=images, class_names=["a", "b"])
    for arrays in steps:
        content = {name: array for name, array in arrays.items() if name != "step"}
        np.savez(place / f"{arrays['step']:08d}.npz", **content)
    return place


def test_what_cannot_be_read_is_counted_and_passed_over(tmp_path):
    good = [step(np.ones((2, 4)) * i, np.eye(2, 4), i) for i in (10, 20, 30, 40, 50)]
    place = written(tmp_path, good)
    (place / "00000010.npz").write_bytes(b"PK damaged")
    np.savez(place / "00000020.npz", features=np.ones((2, 4)))
    content = {name: array for name, array in good[2].items() if name != "step"}
    np.savez(place / "00000030.npz", **content | {"features": np.full((2, 4), np.nan)})
    np.savez(place / "00000035.npz", **content | {"predicted": np.zeros(3, np.int32)})
    (place / "00000060.npz.tmp").write_bytes(b"")
    found = snapshots.read_series(tmp_path)
    assert [arrays["step"] for arrays in found.steps] == [40, 50] and found.unreadable == 4
    assert set(found.points) == set(snapshots.POINTS)
    np.testing.assert_array_equal(found.steps[0]["features"], np.full((2, 4), 40))
    assert projection.coordinates(found.steps)["steps"][1]["step"] == 50

    (place / "points.npz").write_bytes(b"")
    assert snapshots.read_series(tmp_path) == (None, [], 6)


@pytest.mark.parametrize(
    ("argument", "names"),
    [("", "0123"), ("num_classes=6", "012345"), ("num_classes=10", "0123456789"),
     ("num_classes=0", "0123456789"), ("class_list=1/3/5", "135")],
)  # fmt: skip
def test_the_recipe_takes_as_many_digits_as_it_is_told(argument, names):
    config = recipe(f"digits_sphere:{argument}")
    assert architecture.feature_dim(config) == 3
    assert load_lib.load_splits(config).train.class_names == tuple(names)


@pytest.mark.parametrize("count", [1, -2, 11])
def test_a_number_of_digits_that_cannot_be_is_refused(count):
    with pytest.raises(UserError, match="num_classes|class_list") as caught:
        load_lib.load_splits(recipe(f"digits_sphere:num_classes={count}"))
    assert "\n" not in str(caught.value)


def test_a_run_without_snapshots_has_none(tmp_path):
    assert snapshots.read_series(tmp_path) == (None, [], 0)
