"""Lengths, directions and cosines of vectors on the host, in the precision that they have."""

import numpy as np

# Classes that are compared with each other; of more, as many. A matrix of these takes 130 MB.
MOST_COMPARED = 4000


def lengths(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths [...] of vectors [..., D]."""
    return np.linalg.norm(vectors, axis=-1)


def unit(vectors: np.ndarray, of_zero: float = 0.0) -> np.ndarray:
    """Return the directions of vectors [..., D].

    Args:
        vectors: Floating point.
        of_zero: What stands for the direction that a vector of length zero lacks.
    """
    size = lengths(vectors)[..., None]
    return np.where(size == 0, of_zero, vectors / np.where(size == 0, 1, size))


def cosines(
    vectors: np.ndarray, others: np.ndarray | None = None, of_zero: float = 0.0
) -> np.ndarray:
    """Return the cosines [N, M] of vectors [N, D] with others [M, D], by default with themselves.

    A vector of length zero has `of_zero` with all: 0 or NaN.
    """
    directions = unit(vectors, of_zero)
    return directions @ (directions if others is None else unit(others, of_zero)).T


def some_classes(count: int) -> np.ndarray:
    """Return the classes of so many that are compared with each other, evenly spread."""
    return np.linspace(0, count - 1, min(count, MOST_COMPARED)).astype(np.int64)


def of_some_classes(count: int) -> str:
    """Return words for what `some_classes` left out; empty where it left out nothing."""
    return f", of {MOST_COMPARED} of {count} classes" if count > MOST_COMPARED else ""
