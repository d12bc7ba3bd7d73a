"""The measures that hsproto reports: names, meaning and how each is shown, once."""

# In the order of the paper's Table 7; whether the measure rises to its optimum or falls.
RISES = {
    "instance_alignment": False,
    "weight_alignment": False,
    "erank_weights": True,
    "erank_intra": False,
    "erank_inter": True,
}


# In the order in which a reader asks: is it right, is it collapsed, do prototypes and means agree,
# do they form a simplex. With what each metric tells, as the table prints it.
METRICS = {
    "accuracy": "share of images classified rightly",
    "accuracy_class_means": "the same by the nearest training class mean",
    "instance_alignment": "mean squared distance within a class",
    "weight_alignment": "mean squared distance image to prototype",
    "class_alignment": "squared distance prototype to class mean",
    "nc1": "within- over between-class scatter",
    "nc2_equinorm": "spread of the class means' lengths",
    "nc2_equiangular": "deviation of their angles from a simplex",
    "nc3": "distance of prototypes from class means",
    "nc4": "disagreement with the nearest class mean",
    "cdnv": "class-distance normalised variance",
    "erank_intra": "effective rank within classes",
    "erank_inter": "effective rank of the class means",
    "erank_weights": "effective rank of the prototypes",
    "cosine_means_mean": "cosine between class means, mean",
    "cosine_means_std": "cosine between class means, spread",
    "cosine_prototypes_mean": "cosine between prototypes, mean",
    "cosine_prototypes_std": "cosine between prototypes, spread",
    "mir": "mutual information ratio",
    "mir_gap": "the same, less its value at collapse",
    "mir_centered": "the same of centred prototypes",
    "hdr": "entropy difference ratio",
    "hdr_centered": "the same of centred prototypes",
}

# On imbalanced training sets, before the others: by the number of a class's training images, and
# with logits adjusted after training.
LONG_TAIL = {}
for _key in ("accuracy", "accuracy_class_means", "accuracy_adjusted"):
    LONG_TAIL |= {
        _key: METRICS.get(_key, "by logits adjusted after training"),
        f"{_key}_many": "the same, classes of over 100 images",
        f"{_key}_medium": "the same, classes of 20 to 100 images",
        f"{_key}_few": "the same, classes of under 20 images",
    }


# The table of methods: a measure, its split, its name, and how far it is from the optimum without
# any collapse, where its bar is empty. None: as far as the optimum is from 0.
PAGE_COLUMNS = {
    "accuracy": ("test", "accuracy %", None),
    "accuracy_class_means": ("test", "by class means %", None),
    "nc1": ("train", "NC1", 1.0),
    "instance_alignment": ("train", "instance alignment", 2.0),
    "weight_alignment": ("train", "weight alignment", 2.0),
    "nc2_equiangular": ("train", "NC2 equiangular", 1.0),
    "nc3": ("train", "NC3", 1.0),
    "erank_inter": ("train", "rank of means", None),
    "erank_weights": ("train", "rank of prototypes", None),
    "cosine_prototypes_mean": ("train", "prototype cosine", 1.0),
    "mir_gap": ("train", "MIR gap", 1.0),
}


# In the order of the panels, with their titles and whether they fall towards 0.
DYNAMICS = {
    "instance_alignment": ("instance alignment", True),
    "weight_alignment": ("weight alignment", True),
    "nc1": ("NC1", True),
    "erank_inter": ("effective rank of the class means", False),
    "erank_weights": ("effective rank of the prototypes", False),
    "cosine_prototypes_mean": ("mean cosine between prototypes", False),
}
CONVERGENCE_PANELS = {
    "instance_alignment": "instance alignment",
    "weight_alignment": "weight alignment",
    "erank_weights": "rank of prototypes",
    "erank_intra": "rank within classes",
    "erank_inter": "rank of class means",
}


# Measures that a log scale shows best, as they fall to 0 over orders of magnitude.
FALLING = ("instance_alignment", "weight_alignment", "class_alignment", "nc1", "nc2_equinorm")
FALLING += ("nc2_equiangular", "nc3", "nc4", "cdnv", "hdr", "hdr_centered", "cosine_means_std")
FALLING += ("cosine_prototypes_std", "gradient_norm")


# Measures of the training set in the paper's order, then those that tell what these hide: names
# there, and decimals as in `table.Value`.
TABLE_COLUMNS = {
    "erank_intra": ("intra", 2),
    "erank_inter": ("inter", 2),
    "erank_weights": ("weights", 2),
    "weight_alignment": ("w-align", None),
    "class_alignment": ("class-align", None),
    "instance_alignment": ("inst-align", None),
    "mir": ("MIR", None),
    "hdr": ("HDR", None),
    "mir_gap": ("MIR gap", None),
    "nc1": ("NC1", None),
    "cosine_prototypes_mean": ("prototype cosine", None),
}
