"""Retrieval agrees with cases by hand and with a brute-force oracle, ties and lone images too."""

import json

import numpy as np
import pytest

from hsproto.errors import UserError
from hsproto.evaluation import neighbors, retrieval, trained


def oracle(features, labels):
    """The METRICS, each query's others sorted in float64; ties are for the first row."""
    unit = np.asarray(features, np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    recall, average = {k: [] for k in retrieval.KS}, []
    for i, own in enumerate(labels):
        rows = np.array([j for j in range(len(labels)) if j != i], int)
        cosines = [unit[i] @ unit[j] for j in rows]
        relevant = [labels[j] == own for j in rows[np.argsort(-np.array(cosines), kind="stable")]]
        r = sum(relevant)
        if r == 0:
            continue
        for k in retrieval.KS:
            recall[k].append(any(relevant[:k]))
        average.append(sum(sum(relevant[: p + 1]) / (p + 1) for p in range(r) if relevant[p]) / r)
    found = {f"recall@{k}": np.mean(each) for k, each in recall.items()}
    return found | {"map@r": np.mean(average)}


def test_a_case_by_hand():
    # Of three right ones, the first two and the fourth; three right ones in all, R = 3.
    # P(1) = 1, P(2) = 1, and the fourth lies beyond R: (1 + 1)/3. The second query finds one of its
    # two, at the second place: (1/2)/2. The third has none to find.
    right = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
    found = retrieval.map_at_r(right, np.array([3, 2, 0]))
    np.testing.assert_allclose(found, [2 / 3, 1 / 4, np.nan])
    assert retrieval.recall_at_k(right, 1).tolist() == [True, False, False]
    assert retrieval.recall_at_k(right, 2).tolist() == [True, True, False]
    # Of fewer than k others all count.
    assert retrieval.recall_at_k(right, 8).tolist() == [True, True, False]


def test_five_points_on_a_circle_by_hand():
    degrees = np.radians([0, 10, 30, 64, 100])
    points = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    found = retrieval.measure(points, np.array([0, 1, 0, 1, 2]))
    # From 0° the nearest are 10° and 30°; from 10° 0°, 30° and 64°; from 30° 10° and 0°; from 64°
    # 30°, 100° and 10°. The one at 100° is alone in its class; of the others R is 1.
    assert (found["images"], found["queries"]) == (5, 4)
    assert found["recall@1"] == found["map@r"] == 0
    assert found["recall@2"] == 1 / 2
    assert found["recall@4"] == found["recall@8"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_is_that_of_the_oracle(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, 5))
    labels = np.r_[rng.integers(0, 5, 40), 5]  # the last one is alone
    features = (centres[labels] + rng.normal(size=(41, 5))).astype(np.float32)
    where = rng.random(41) < 0.8
    where[-1] = True
    monkeypatch.setattr(retrieval, "_BLOCK_ELEMENTS", 41 * 7)  # blocks of seven, the last padded
    found = retrieval.measure(features, labels, where)
    expected = oracle(features[where], labels[where])
    assert (found["images"], found["queries"]) == (where.sum(), where.sum() - 1)
    for name in retrieval.METRICS:
        assert found[name] == pytest.approx(expected[name], abs=1e-12), name
    assert 0 < found["map@r"] < found["recall@8"]


def test_few_images_and_none_of_ones_class():
    points = np.eye(3, 2, dtype=np.float32) + 1
    found = retrieval.measure(points, np.array([4, 4, 9]))
    assert (found["images"], found["queries"], found["recall@8"]) == (3, 2, 1)
    for count in (1, 3):
        alone = retrieval.measure(points[:count], np.arange(count))
        assert alone["queries"] == 0 and all(np.isnan(alone[n]) for n in retrieval.METRICS)


@pytest.mark.parametrize("count", [0, 1, 17, 60])
def test_the_nearest_are_those_of_a_stable_sort(count):
    rng = np.random.default_rng(0)
    # Rounded, so that there are ties, and zeros of both signs.
    cosines = (rng.uniform(-1, 1, (9, 60)) * 8).round().astype(np.float32) / 8
    assert (np.signbit(cosines) & (cosines == 0)).any()
    cosines[:, 3] = -np.inf
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(neighbors.nearest(cosines, count), expected)


def test_collapse_finds_every_image_and_collapse_of_all_is_chance():
    labels = np.repeat(np.arange(10), 30)
    found = retrieval.measure(np.eye(10, dtype=np.float32)[labels], labels)
    assert all(found[name] == 1 for name in retrieval.METRICS)
    # All features alike, rows in the order of the classes: 29 of the 299 others are right.
    found = retrieval.measure(np.ones((300, 4), np.float32), labels)
    assert found["recall@1"] == pytest.approx(29 / 299, abs=0.06)
    assert found["recall@8"] == pytest.approx(1 - (270 / 299) ** 8, abs=0.1)


@pytest.mark.parametrize("recipe", ["digits_run", "scl_run"])
@pytest.mark.parametrize("features", ["classifier", "encoder"])
def test_the_command_measures_the_test_set(recipe, features, request, capsys):
    workdir = request.getfixturevalue(recipe)
    assert retrieval.main([f"--workdir={workdir}", f"--features={features}"]) == 0
    found = json.loads((workdir / "retrieval.json").read_text())
    test = trained.TrainedRun(workdir).test
    rows = (test.features if features == "encoder" else test.projections)[test.where]
    expected = oracle(np.asarray(rows), test.labels[test.where])
    assert list(found) == ["step", "labels", "features", "images", "queries", *retrieval.METRICS]
    assert (found["labels"], found["images"], found["queries"]) == ("own", 360, 360)
    for name in retrieval.METRICS:
        # Cosines in float32 may swap two neighbors.
        assert found[name] == pytest.approx(expected[name], abs=3e-3), name
    text = capsys.readouterr().out
    assert "360 queries, own labels" in text and f"{found['map@r']:.4f}" in text


def test_original_labels_of_a_run_without_groups_are_refused_in_one_line(digits_run):
    assert retrieval.main([f"--workdir={digits_run}"]) == 0
    before = (digits_run / "retrieval.json").read_bytes()
    with pytest.raises(UserError, match="class_groups is empty.*leave it out") as caught:
        retrieval.main([f"--workdir={digits_run}", "--labels=original"])
    assert "\n" not in str(caught.value)
    assert (digits_run / "retrieval.json").read_bytes() == before


def test_unknown_labels_are_refused_in_one_line(digits_run):
    with pytest.raises(UserError, match="--labels") as caught:
        retrieval.main([f"--workdir={digits_run}", "--labels=fine"])
    assert "\n" not in str(caught.value)
