"""Directions and cosines on the host, against their definitions."""

import numpy as np
import pytest

from hsproto.reporting import directions


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_cosines_are_those_of_the_angles_whatever_the_lengths(dtype):
    angles = np.array([0, 0.3, 2.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1], [5], [0.1]]
    cosines = directions.cosines(vectors.astype(dtype))
    assert cosines.dtype == dtype
    tolerance = 10 * np.finfo(dtype).eps
    expected = np.cos(angles[:, None] - angles)
    np.testing.assert_allclose(cosines, expected, atol=tolerance)
    others = directions.cosines(vectors.astype(dtype), vectors[:2].astype(dtype))
    np.testing.assert_allclose(others, expected[:, :2], atol=tolerance)


def test_a_vector_of_length_zero_has_the_direction_that_is_asked_for():
    vectors = np.array([[3.0, 4.0], [0.0, 0.0]])
    assert directions.unit(vectors).tolist() == [[0.6, 0.8], [0.0, 0.0]]
    assert directions.cosines(vectors).tolist() == [[1.0, 0.0], [0.0, 0.0]]
    cosines = directions.cosines(vectors, of_zero=np.nan)
    assert np.isnan(cosines).tolist() == [[False, True], [True, True]]


def test_what_is_not_finite_has_no_direction():
    assert np.isnan(directions.unit(np.array([[np.nan, 1.0]]))).all()
