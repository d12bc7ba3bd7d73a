"""Whether two results differ by more than chance: of seeds, or of the test images.

Between runs of several seeds it is Student's t test (Welch's where both have several), in which a
group of one seed is taken to vary as the other does. Accuracies of one seed each are compared by
their standard errors on N test images, or, where it is known which images are right in each, by
the images that only one of them gets right (McNemar's test). Other measures of one seed each cannot
be told apart from chance, and never are. The level is 5 %.
"""

import math
from collections.abc import Sequence

import numpy as np

from hsproto.reporting.table import Value
from hsproto.runs.predictions_file import Predicted

_LEVEL = 0.05
_NORMAL = 1.96  # standard errors


def differ_by_seeds(first: Value, second: Value) -> bool | None:
    """Return whether means over seeds differ; None if each has a single seed."""
    if first.std is None and second.std is None:
        return None
    difference = abs(first.mean - second.mean)
    error, freedom = _standard_error(first, second)
    if not error:
        return difference > 0
    from scipy.stats import t  # comes with jax; a second to import

    return bool(2 * t.sf(difference / error, freedom) < _LEVEL)


def _standard_error(first, second):
    """(standard error of the difference, degrees of freedom)."""
    stds = [first.std, second.std]
    if None in stds:  # one of them is of one seed
        (std,) = (std for std in stds if std is not None)
        return std * math.sqrt(1 / first.n + 1 / second.n), first.n + second.n - 2
    parts = [std**2 / value.n for std, value in zip(stds, (first, second), strict=True)]
    freedom = sum(parts) ** 2 / (
        sum(part**2 / (value.n - 1) for part, value in zip(parts, (first, second), strict=True))
        or 1
    )
    return math.sqrt(sum(parts)), max(freedom, 1)


def differ_by_images(shares: Sequence[float], images: Sequence[int | None]) -> bool | None:
    """Return whether two accuracies, of 0..1, on so many images differ; None if not known."""
    if None in images:
        return None
    errors = [share * (1 - share) / count for share, count in zip(shares, images, strict=True)]
    return abs(shares[0] - shares[1]) > _NORMAL * math.sqrt(sum(errors))


def differ_paired(first: Predicted | None, second: Predicted | None) -> bool | None:
    """Return whether accuracies on the same images differ; None if they are not known to be."""
    if first is None or second is None or not np.array_equal(first.labels, second.labels):
        return None
    only_first = int(np.sum(first.right() & ~second.right()))
    only_second = int(np.sum(second.right() & ~first.right()))
    return abs(only_first - only_second) > _NORMAL * math.sqrt(only_first + only_second)
