"""Accuracy per class and per group of classes, for imbalanced training sets."""

import numpy as np

from hsproto.methods import SOFTMAX_LOSSES

# Inclusive bounds of a class's training images: many-, medium- and few-shot (Liu et al. 2019).
SHOTS = {"many": (101, np.inf), "medium": (20, 100), "few": (0, 19)}


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
