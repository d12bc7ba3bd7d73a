"""How collapsed features are, in words: what `hsproto measure` and the page of runs say alike."""

import math
from collections.abc import Mapping

# Share of a simplex's rank, and spread within over between classes, for each word.
_WORDS = (("collapsed", 0.95, 0.1), ("close to collapse", 0.8, 0.5))


def collapse(rank: float, spread: float, classes: int, dim: int) -> str:
    """Return a sentence that says how collapsed features are.

    Args:
        rank: The effective rank of the class means (`erank_inter`).
        spread: The root mean square distance of features from their class mean, over that of class
            means from their centre (`spread_of_directions`).
        classes: K, at least 2.
        dim: D.
    """
    share = rank / min(classes - 1, dim)
    of_what = "of a simplex" if dim >= classes - 1 else f"of the {dim} dimensions that there are"
    word = next((w for w, least, most in _WORDS if share >= least and spread <= most), None)
    return (
        f"The features are {word or 'not collapsed'}: class means are at {100 * share:.0f} % "
        f"{of_what}; spread within classes {spread:.2g} times that between."
    )


def no_room(classes: int, dim: int) -> str:
    """Return a sentence for K classes in fewer than K-1 dimensions, or an empty text."""
    if dim >= classes - 1:
        return ""
    return f"{classes} classes need {classes - 1} dimensions for a simplex, and there are {dim}."


def spread_of_directions(measures: Mapping[str, float | None], classes: int) -> float | None:
    """Return the spread within classes over that between of unit features, from other measures.

    Of unit features |μ_c|² is 1 less half the mean squared distance within the class. With class
    means of about equal length the cosines between them give the rest: their mean squared distance
    from the centre is |μ|² (1 - 1/K) (1 - mean cosine).

    Args:
        measures: With `instance_alignment` and `cosine_means_mean`; else the result is None.
        classes: K, at least 2.
    """
    squared, cosine = (measures.get(key) for key in ("instance_alignment", "cosine_means_mean"))
    if squared is None or cosine is None:
        return None
    within = squared / 2
    between = (1 - within) * (1 - 1 / classes) * (1 - cosine)
    return math.sqrt(within / between) if between > 0 else math.inf
