"""Functions of rows, such as scores of all classes, in blocks of rows of bounded memory."""

from collections.abc import Callable, Iterator

import numpy as np

_MOST_ROWS = 1024
_MOST_SCORES = 2**25  # of a block: 256 MB once they are float64


def row_blocks(
    function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, max_rows: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (place, function(block)) of blocks of rows [N, ...] on the host.

    Args:
        function: Of a block; all blocks have one shape, so that one program serves them.
        rows: [N, ...].
        max_rows: Of a block; at least one row is taken, and at most 1024.
    """
    size = max(1, min(_MOST_ROWS, max_rows, len(rows)))
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        missing = size - len(block)
        if missing:
            block = np.pad(block, ((0, missing), *[(0, 0)] * (block.ndim - 1)))
        yield slice(start, start + size - missing), function(block)[: size - missing]


class Scores:
    """Scores [N, K] of N images and K classes, of which a block of images is held at a time.

    Attributes:
        labels: int [N].
    """

    def __init__(
        self,
        rows: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        scores_of: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
    ):
        """Take the scores themselves, or features from which they are computed at each use.

        Args:
            rows: [N, K] or [N, D], on the host.
            labels: int [N].
            num_classes: K.
            scores_of: Maps rows to their scores.
        """
        self.labels, self._rows = labels, rows
        self._num_classes, self._scores_of = num_classes, scores_of

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, images: np.ndarray) -> "Scores":
        """Return the scores of some images."""
        return Scores(self._rows[images], self.labels[images], self._num_classes, self._scores_of)

    def per_image(self, function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """Return function(scores [n, K], labels [n]) of all images, joined along the first axis."""
        blocks = row_blocks(self._scores_of, self._rows, _MOST_SCORES // self._num_classes)
        return np.concatenate([function(block, self.labels[place]) for place, block in blocks])
