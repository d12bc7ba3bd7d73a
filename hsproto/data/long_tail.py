"""Long tails: training sets whose classes fall off exponentially, and what is asked of them.

The profile is that of LDAM-DRW (Cao et al. 2019): n_c = int((N/K) rho^(c/(K-1))), truncated,
classes in the order of their labels, rho the config's `imbalance_factor`. A seed of its own
(`subset_seed`) picks which images stay; the test set stays as it is. Accuracy is told by how many
training images a class has; logits can be adjusted by the classes' frequencies (Menon et al. 2021).
"""

import numpy as np

from hsproto.data import subsets
from hsproto.errors import UserError


def profile(num_examples, num_classes, imbalance_factor):
    """Images that stay of each class of a balanced set, int [K]: int((N/K) rho^(c/(K-1)))."""
    steps = max(num_classes - 1, 1)
    largest = num_examples / num_classes
    return np.array([int(largest * imbalance_factor ** (c / steps)) for c in range(num_classes)])


def subset(source, imbalance_factor, seed):
    """The long-tailed part of a training source, as a source; its images keep their order.

    A class that has fewer images than the profile says keeps all of them. With the same seed a
    smaller `imbalance_factor` gives a part of what a larger one gives. Raises UserError where a
    class would keep no image.
    """
    labels = np.asarray(source.labels)
    counts = profile(len(source), len(source.class_names), imbalance_factor)
    rows = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        if not min(count, len(members)):
            raise UserError(
                f"config key imbalance_factor={imbalance_factor} leaves no training image of class "
                f"{source.class_names[label]!r}: take a larger one"
            )
        # The bit generator is named because NumPy may change its default one.
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, label])))
        rows.append(generator.permutation(members)[:count])
    return subsets.of_rows(source, np.sort(np.concatenate(rows)))


def class_counts(source):
    """Images of each class of a source, int [K]."""
    return np.bincount(source.labels, minlength=len(source.class_names))
