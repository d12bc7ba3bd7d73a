"""The tables of the paper (arXiv 2605.20302) as data, to compare runs with.

Accuracies and errors are in per cent; losses and data sets have the names of this package, e.g.
`imagenet2012` for ImageNet-1K. What the paper does not state is left out.
"""

from collections.abc import Iterable

# Classes of its data sets, which distinguish them from others of the same name.
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet100": 100, "imagenet2012": 1000}


def _by(keys: Iterable, rows: dict) -> dict:
    """{row: {key: value}} of {row: values}, without values that are None."""
    return {
        row: {k: v for k, v in zip(keys, values, strict=True) if v is not None}
        for row, values in rows.items()
    }


# Table 1, test accuracy: {loss: {data set: value}}.
ACCURACY = _by(
    CLASSES,
    {
        "cross_entropy": (94.6, 72.1, 84.4, 75.4),
        "dot_regression": (94.4, 72.1, 84.5, 75.4),
        "normface": (94.8, 72.4, 84.4, 76.4),
        "ntce": (94.7, 72.9, 84.7, 76.7),
        "nonl": (94.9, 73.6, 84.9, 76.5),
    },
)

# The same over five seeds: {data set: {loss: (mean, standard deviation)}}.
ACCURACY_OF_SEEDS = {
    "cifar10": {
        "cross_entropy": (94.52, 0.15),
        "normface": (94.64, 0.10),
        "ntce": (94.68, 0.07),
        "nonl": (94.84, 0.15),
    },
    "cifar100": {
        "cross_entropy": (72.16, 0.20),
        "normface": (72.32, 0.17),
        "ntce": (72.78, 0.21),
        "nonl": (73.38, 0.28),
    },
}

# Tables 2, 8 and 14, classifiers on SCL's encoder: {(method, projection): {data set: value}}.
CLASSIFIERS = _by(
    CLASSES,
    {
        ("lp", "mlp"): (95.0, 73.9, 84.8, 75.1),
        ("nlp", "mlp"): (94.9, 73.6, 84.8, 75.1),
        ("fp", "mlp"): (95.0, 73.9, 86.8, 75.1),
        ("lp", "none"): (95.0, 70.6, 84.1, 71.0),
        ("nlp", "none"): (95.0, 71.4, 84.3, 72.1),
        ("fp", "none"): (95.0, 71.4, 84.7, 70.1),
        ("cached_lp", "mlp"): (94.4, 72.3, None, None),
    },
)

# Table 3, on the training set: {data set: {loss, or "scl+" and the classifier: {measure: value}}}.
GEOMETRY_MEASURES = (
    "erank_intra",
    "erank_inter",
    "erank_weights",
    "weight_alignment",
    "instance_alignment",
    "mir",
    "hdr",
)
GEOMETRY = {
    "cifar10": _by(
        GEOMETRY_MEASURES,
        {
            "cross_entropy": (22.5, 8.6, 8.9, 0.59, 0.69, 0.98, 0.03),
            "dot_regression": (9.0, 8.9, 9.0, 0.58, 0.59, 0.98, 0.02),
            "normface": (10.5, 9.0, 9.0, 0.12, 0.14, 0.95, 0.04),
            "ntce": (9.0, 9.0, 8.9, 0.08, 0.10, 0.96, 0.05),
            "nonl": (4.0, 9.0, 9.0, 0.11, 0.16, 0.95, 0.05),
            "scl+lp": (4.5, 9.0, 8.3, 0.99, 0.10, 0.99, 0.07),
            "scl+fp": (4.5, 9.0, 9.0, 0.0, 0.10, 1.0, 0.09),
        },
    ),
    "cifar100": _by(
        GEOMETRY_MEASURES,
        {
            "cross_entropy": (96.4, 57.1, 89.7, 0.83, 1.05, 0.97, 0.13),
            "dot_regression": (18.4, 94.8, 99.0, 0.59, 0.61, 1.0, 0.11),
            "normface": (13.6, 96.2, 96.1, 0.01, 0.06, 1.0, 0.30),
            "ntce": (12.6, 99.0, 98.9, 0.01, 0.05, 1.0, 0.30),
            "nonl": (11.4, 99.0, 99.0, 0.01, 0.06, 1.0, 0.30),
            "scl+lp": (7.5, 66.7, 77.8, 1.03, 0.34, 0.95, 0.11),
            "scl+fp": (7.5, 66.7, 66.5, 0.0, 0.34, 0.87, 0.14),
        },
    ),
}

# Table 4, linear classifiers on the frozen encoder; VOC 2007 is mean average precision. The set on
# which the encoder was trained is not stated.
TRANSFER_SETS = (
    "food101",
    "cifar10",
    "cifar100",
    "cars196",
    "dtd",
    "oxford_iiit_pet",
    "oxford_flowers102",
    "voc/2007",
)
TRANSFER = _by(
    (*TRANSFER_SETS, "mean"),
    {
        "cross_entropy": (68.0, 88.6, 67.7, 25.9, 69.9, 67.0, 81.4, 67.1, 67.0),
        "dot_regression": (57.2, 83.9, 54.3, 9.8, 64.0, 49.2, 58.3, 60.0, 54.6),
        "normface": (69.8, 89.8, 69.7, 29.7, 70.1, 69.7, 83.2, 67.9, 68.7),
        "ntce": (69.3, 89.9, 69.8, 28.1, 70.0, 69.4, 81.9, 67.8, 68.3),
        "nonl": (70.7, 90.0, 71.0, 38.1, 69.4, 72.9, 85.2, 68.3, 70.7),
    },
)

# Table 5, on ImageNet-C: {loss: {"clean_error", "mce"}}.
ROBUSTNESS = _by(
    ("clean_error", "mce"),
    {
        "cross_entropy": (25.0, 80.1),
        "dot_regression": (24.6, 79.2),
        "normface": (23.6, 77.8),
        "ntce": (23.3, 77.6),
        "nonl": (23.5, 77.8),
    },
)

# Table 6, test accuracy: {data set: {loss: {imbalance factor: value}}}.
_FACTORS = (0.1, 0.02, 0.01)
LONG_TAIL = {
    "cifar10": _by(
        _FACTORS,
        {
            "cross_entropy": (88.1, 76.8, 70.2),
            "dot_regression": (88.0, 77.8, 71.3),
            "normface": (88.0, 79.0, 74.3),
            "ntce": (88.8, 80.8, 77.3),
            "nonl": (89.2, 80.5, 76.3),
        },
    ),
    "cifar100": _by(
        _FACTORS,
        {
            "cross_entropy": (55.5, 41.5, 37.4),
            "dot_regression": (54.4, 40.6, 36.2),
            "normface": (54.6, 40.1, 35.9),
            "ntce": (56.8, 43.7, 39.0),
            "nonl": (57.4, 44.7, 40.0),
        },
    ),
}

# Table 7, per cent of training needed: {data set: {threshold: {loss: {measure: value}}}}.
CONVERGENCE_MEASURES = (
    "instance_alignment",
    "weight_alignment",
    "erank_weights",
    "erank_intra",
    "erank_inter",
)
CONVERGENCE = {
    "cifar100": {
        "95 % of collapse": _by(
            CONVERGENCE_MEASURES,
            {
                "normface": (79.4, 8.2, 52.6, 45.4, 56.2),
                "ntce": (79.4, 6.8, 56.4, 36.6, 52.4),
                "nonl": (79.4, 7.4, 34.6, 14.6, 47.2),
            },
        ),
        "value of the baseline": _by(
            CONVERGENCE_MEASURES,
            {
                "normface": (2.2, 2.0, 66.3, 0.0, 7.4),
                "ntce": (2.2, 1.8, 73.9, 0.0, 7.4),
                "nonl": (2.2, 1.8, 35.4, 0.0, 6.0),
            },
        ),
    },
}

# Table 11, test accuracy by batch size: {data set: {loss: {batch size: value}}}.
BATCH_SIZE = {
    "imagenet2012": _by(
        (2048, 4096, 8192),
        {
            "cross_entropy": (75.4, 75.4, 75.1),
            "normface": (75.6, 76.4, 76.3),
            "ntce": (76.0, 76.7, 76.7),
            "nonl": (75.0, 76.2, 76.5),
        },
    ),
}

# Table 12, test accuracy by backbone: {data set: {loss: {backbone: value}}}.
BACKBONE = {
    "imagenet100": _by(
        ("resnet50", "resnet101", "resnet152"),
        {
            "cross_entropy": (84.4, 85.3, 85.5),
            "normface": (84.4, 85.4, 85.6),
            "ntce": (84.7, 85.4, 85.4),
            "nonl": (84.9, 85.5, 85.8),
        },
    ),
}

# Figure 3, Tables 9 and 10, test accuracy by temperature at a batch of 512: {data set: {loss:
# {temperature: value}}}.
TEMPERATURES = (0.07, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
TEMPERATURE_BATCH = 512
TEMPERATURE = {
    "cifar100": _by(
        TEMPERATURES,
        {
            "normface": (71.7, 71.7, 72.0, 72.4, 63.6, 52.0, 42.5, 37.0, 33.6, 28.9, 27.6),
            "ntce": (72.0, 71.7, 72.9, 71.4, 64.0, 52.3, 42.7, 38.6, 30.2, 29.0, 28.2),
            "nonl": (73.2, 73.6, 72.5, 71.6, 63.4, 52.6, 42.8, 37.2, 31.2, 28.2, 26.8),
        },
    ),
    "cifar10": _by(
        TEMPERATURES,
        {
            "normface": (94.6, 94.3, 94.5, 94.5, 94.6, 94.7, 94.8, 94.6, 85.9, 85.9, 85.7),
            "ntce": (94.2, 94.3, 94.3, 94.4, 94.5, 94.6, 94.7, 94.5, 86.2, 85.9, 85.7),
            "nonl": (92.9, 94.7, 94.9, 94.6, 94.4, 94.3, 94.1, 94.3, 86.0, 85.9, 85.9),
        },
    ),
}
