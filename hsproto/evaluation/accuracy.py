"""Accuracy per class and per group of classes, for imbalanced training sets."""

from typing import Any

import numpy as np

from hsproto.methods import SOFTMAX_LOSSES

# Inclusive bounds of a class's training images: many-, medium- and few-shot (Liu et al. 2019).
SHOTS = {"many": (101, np.inf), "medium": (20, 100), "few": (0, 19)}


def is_imbalanced(counts: np.ndarray) -> bool:
    """Return whether the largest class has at least twice the images of the smallest."""
    return bool(np.max(counts) >= 2 * np.min(counts))


def accuracy_by_class(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the accuracy on the images of each class, float [K]; NaN for a class without any."""
    counts = np.bincount(labels, minlength=num_classes)
    correct = np.bincount(labels[predicted == labels], minlength=num_classes)
    return np.where(counts > 0, correct / np.maximum(counts, 1), np.nan)


def by_shots(accuracies: dict[str, np.ndarray], train_counts: np.ndarray) -> dict[str, float]:
    """Return {"accuracy_many", ...}: mean accuracy of the classes in each group of SHOTS.

    Classes without a test image are left out; a group without classes is NaN. On a balanced test
    set this is the accuracy on the images of the group.

    Args:
        accuracies: {"accuracy": of each class [K], ...}.
        train_counts: training images per class [K].
    """
    means = {}
    for key, by_class in accuracies.items():
        for name, (least, most) in SHOTS.items():
            group = by_class[(train_counts >= least) & (train_counts <= most) & ~np.isnan(by_class)]
            means[f"{key}_{name}"] = group.mean() if group.size else np.nan
    return means


def can_adjust(config: Any, counts: np.ndarray) -> bool:
    """Return whether logits can be adjusted after training by the training images per class [K].

    They must be those of a softmax over classes that were drawn as often as they occur in the set,
    each at least once, and must not have been adjusted in training.
    """
    natural_frequencies = config.sampler == "shuffle" and not config.batch_binding
    return (
        config.loss in SOFTMAX_LOSSES
        and natural_frequencies
        and not config.logit_adjustment
        and bool(np.all(counts > 0))
    )
