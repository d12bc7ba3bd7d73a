"""Long-tailed training sets, whose class sizes fall off exponentially.

The profile is that of LDAM-DRW (Cao et al. 2019): n_c = int((N/K) rho^(c/(K-1))), truncated,
classes in the order of their labels, rho the config key `imbalance_factor`. A seed of its own
(`subset_seed`) picks which images stay; the test set stays as it is.
"""

import numpy as np

from hsproto.data import subsets
from hsproto.data.source import Source
from hsproto.errors import UserError


def profile(num_examples: int, num_classes: int, imbalance_factor: float) -> np.ndarray:
    """Return how many images of each class of a balanced set stay: int((N/K) rho^(c/(K-1)))."""
    steps = max(num_classes - 1, 1)
    largest = num_examples / num_classes
    return np.array([int(largest * imbalance_factor ** (c / steps)) for c in range(num_classes)])


def subset(source: Source, imbalance_factor: float, seed: int) -> Source:
    """Return the long-tailed part of a training source; its images keep their order.

    A class with fewer images than the profile says keeps all of them. With the same seed, the part
    of a smaller `imbalance_factor` is contained in that of a larger one.

    Raises:
        UserError: a class would keep no image.
    """
    labels = np.asarray(source.labels)
    counts = profile(len(source), len(source.class_names), imbalance_factor)
    left_none = np.minimum(counts, class_counts(source)) == 0
    if left_none.any():
        raise UserError(
            f"config key imbalance_factor={imbalance_factor} leaves no training image of class "
            f"{source.class_names[left_none.argmax()]!r}: take a larger one"
        )
    rows = []
    for label, members in subsets.rows_by_class(labels):
        # The bit generator is named because NumPy may change its default one.
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, label])))
        rows.append(generator.permutation(members)[: counts[label]])
    return subsets.of_rows(source, np.sort(np.concatenate(rows)))


def class_counts(source: Source) -> np.ndarray:
    """Return the number of images per class of a source, int [K]."""
    return np.bincount(source.labels, minlength=len(source.class_names))
