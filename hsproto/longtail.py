"""Long tails: training sets whose classes fall off exponentially, and what is asked of them.

The profile is that of LDAM-DRW (Cao et al. 2019): n_c = int((N/K) rho^(c/(K-1))), truncated,
classes in the order of their labels, rho the config's `imbalance_factor`. A seed of its own
(`subset_seed`) picks which images stay; the test set stays as it is. Accuracy is told by how many
training images a class has; logits can be adjusted by the classes' frequencies (Menon et al. 2021).
"""

import jax
import jax.numpy as jnp
import numpy as np

from hsproto import subsets
from hsproto.config import SOFTMAX_LOSSES
from hsproto.errors import UserError

# Inclusive bounds of a class's training images: many-, medium- and few-shot (Liu et al. 2019).
SHOTS = {"many": (101, np.inf), "medium": (20, 100), "few": (0, 19)}


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


def is_imbalanced(counts):
    """Whether the largest class has twice the images of the smallest, or more."""
    return bool(np.max(counts) >= 2 * np.min(counts))


def accuracy_by_class(predicted, labels, num_classes):
    """Share of each class's images that is classified rightly, float [K]; NaN without images."""
    counts = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels[predicted == labels], minlength=num_classes)
    return np.where(counts > 0, right / np.maximum(counts, 1), np.nan)


def by_shots(accuracies, train_counts):
    """{"accuracy_many", ...}: mean accuracy of the classes with so many training images.

    Of {"accuracy": of each class [K], ...} and the classes' training images [K]. Classes without a
    test image are left out; a group of none is NaN. On a balanced test set this is the share of the
    group's images that is classified rightly.
    """
    found = {}
    for key, by_class in accuracies.items():
        for name, (least, most) in SHOTS.items():
            group = by_class[(train_counts >= least) & (train_counts <= most) & ~np.isnan(by_class)]
            found[f"{key}_{name}"] = group.mean() if group.size else np.nan
    return found


def can_adjust(config, counts):
    """Whether a run's logits can be adjusted after training by the classes' `counts` [K].

    They are a softmax over classes drawn as often as they are in the set, with an image of each,
    and have not been adjusted in training.
    """
    drawn_as_they_are = config.sampler == "shuffle" and not config.batch_binding
    return (
        config.loss in SOFTMAX_LOSSES
        and drawn_as_they_are
        and not config.logit_adjustment
        and bool(np.all(counts > 0))
    )


def log_prior(counts):
    """Log of the classes' shares of the training images, float32 [K], of their `counts` [K].

    Raises UserError where a class has none.
    """
    counts = np.asarray(counts, np.float64)
    if not np.all(counts > 0):
        raise UserError(
            f"logit_adjustment needs training images of every class; class {np.argmin(counts)} has "
            "none"
        )
    return np.log(counts / counts.sum()).astype(np.float32)


def balanced_lengths(labels, num_classes, axis_name=None):
    """Lengths of dot regression's prototypes for a batch, float32 [K]: sqrt((M/K_batch)/n_c).

    M images of K_batch classes, n_c of class c; of a class without, 1. Every class in the batch
    then has the same weight in the loss (Yang et al. 2022, for long tails). labels: int [B];
    axis_name: mapped axis over which the batch is split, or None.
    """
    counts = jnp.sum(labels[:, None] == jnp.arange(num_classes), axis=0, dtype=jnp.float32)
    if axis_name is not None:
        counts = jax.lax.psum(counts, axis_name)
    share = jnp.sum(counts) / jnp.maximum(jnp.sum(counts > 0), 1)
    return jnp.where(counts > 0, jnp.sqrt(share / jnp.maximum(counts, 1.0)), 1.0)
