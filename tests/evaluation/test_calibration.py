"""ECE, NLL and the temperature agree with hand-computed cases and scikit-learn."""

import json

import numpy as np
import pytest
from scipy import optimize
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from hsproto.errors import UserError
from hsproto.evaluation import calibration, row_blocks
from hsproto.evaluation.row_blocks import Scores


def given(logits, labels):
    return Scores(logits, labels, logits.shape[1])


@pytest.fixture
def predictions():
    """Logits three times too large for how often they are right."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 5))
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(5, p=p) for p in odds])
    return 3 * logits, labels


def test_ece_of_a_case_by_hand():
    confidences = np.array([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    logits = np.log(np.stack([confidences, 1 - confidences], axis=1))
    labels = np.array([0, 0, 0, 1, 0, 1])
    # Bins of a fifteenth: four images at 0.9 of which 3/4 are right, two at 0.6, half right.
    expected = 4 / 6 * abs(0.75 - 0.9) + 2 / 6 * abs(0.5 - 0.6)
    assert calibration.ece(given(logits, labels)) == pytest.approx(expected)
    # A single bin: 4 of 6 are right, at a mean confidence of 0.8.
    assert calibration.ece(given(logits, labels), bins=1) == pytest.approx(0.8 - 4 / 6)


def test_a_bin_holds_its_upper_edge():
    scores = given(np.zeros((3, 2)), np.zeros(3, int))
    share, confidence, accuracy = calibration.reliability(scores, bins=2)
    np.testing.assert_array_equal(share, [1, 0])
    np.testing.assert_array_equal(confidence, [0.5, np.nan])
    np.testing.assert_array_equal(accuracy, [1, np.nan])


def test_nll_and_reliability_are_scikit_learns(predictions):
    logits, labels = predictions
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert calibration.nll(given(logits, labels)) == pytest.approx(log_loss(labels, probabilities))
    right = probabilities.argmax(axis=1) == labels
    expected = calibration_curve(right, probabilities.max(axis=1), n_bins=15)
    share, confidence, accuracy = calibration.reliability(given(logits, labels))
    np.testing.assert_allclose(accuracy[share > 0], expected[0])
    np.testing.assert_allclose(confidence[share > 0], expected[1])
    assert share.sum() == pytest.approx(1)


def test_the_temperature_minimises_nll(predictions):
    logits, labels = predictions
    found = calibration.fit_temperature(given(logits, labels))
    direct = optimize.minimize_scalar(
        lambda t: calibration.nll(given(logits, labels), t),
        bounds=(0.1, 20),
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(direct.x, rel=1e-6)
    assert found == pytest.approx(3, rel=0.05)


def test_a_class_that_is_never_predicted_has_no_part_in_the_temperature(predictions):
    logits, labels = predictions
    with_dead = np.concatenate([logits, np.full((len(logits), 1), -np.inf)], axis=1)
    expected = calibration.fit_temperature(given(logits, labels))
    assert calibration.fit_temperature(given(with_dead, labels)) == pytest.approx(expected)


@pytest.mark.parametrize("labels", [[0, 1, 2], [1, 2, 0]])
def test_no_temperature_is_best_where_all_or_none_are_right(labels):
    assert np.isnan(calibration.fit_temperature(given(np.eye(3), np.array(labels))))
    result = calibration.calibrate(given(np.tile(np.eye(3), (20, 1)), np.tile(labels, 20)))
    assert np.isnan(result["after"]["ece"]) and np.isfinite(result["before"]["ece"])
    assert "no temperature is best" in calibration.format_table(result)


def test_fitting_helps_on_images_that_were_not_fitted(predictions):
    result = calibration.calibrate(given(*predictions))
    assert (result["images_fitted"], result["images_measured"]) == (800, 3200)
    assert result["after"]["nll"] < result["before"]["nll"] - 0.1
    assert result["after"]["ece"] < 0.04 < 0.15 < result["before"]["ece"]


def test_blocks_of_images_change_no_bit(predictions, monkeypatch):
    expected = json.dumps(calibration.calibrate(given(*predictions)))
    monkeypatch.setattr(row_blocks, "_MOST_SCORES", 5 * 333)
    assert json.dumps(calibration.calibrate(given(*predictions))) == expected


def test_the_command_writes_what_it_found(digits_run, capsys):
    assert calibration.main([f"--workdir={digits_run}", "--fit_share=0.5"]) == 0
    found = json.loads((digits_run / "calibration.json").read_text())
    assert (found["images_fitted"], found["images_measured"]) == (180, 180)
    assert len(found["before"]["bins"]) == 15
    assert f"{found['before']['ece']:.4f}" in capsys.readouterr().out
    for wrong in ("--fit_share=1", "--fit_share=0", "--bins=0"):
        with pytest.raises(UserError, match=wrong):
            calibration.main([f"--workdir={digits_run}", wrong])
