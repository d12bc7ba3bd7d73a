"""How collapsed features are, in words: what `hsproto measure` and the page of runs say alike."""

import math
from collections.abc import Mapping

# For each word: the least share of a simplex's rank, the most that cosines are off, which random
# directions in many dimensions have too, and the most spread within over between classes.
_WORDS = (("collapsed", 0.95, 0.05, 0.1), ("close to collapse", 0.8, 0.15, 0.5))


def collapse(rank: float, angles: float | None, spread: float, classes: int, dim: int) -> str:
    """Return a sentence that says how collapsed features are.

    Args:
        rank: The effective rank of the class means (`erank_inter`).
        angles: How far the cosines between centered class means are from those of a simplex
            (`nc2_equiangular`), or None where that is not known.
        spread: The root mean square distance of features from their class mean, over that of class
            means from their centre (`spread_of_directions`).
        classes: K, at least 2.
        dim: D.
    """
    share, room = rank / min(classes - 1, dim), dim >= classes - 1
    means = f"{100 * share:.0f} % of " + (
        "a simplex's rank" if room else f"the {dim} dimensions that there are"
    )
    angles = angles if room else None  # there is no simplex that they could be off
    if angles is not None:
        means += f" and cosines that are off its by {angles:.2f}"
    word = next(
        (
            word
            for word, least, off, most in _WORDS
            if share >= least and spread <= most and (angles is None or angles <= off)
        ),
        "not collapsed",
    )
    return (
        f"The features are {word}: class means have {means}; spread within classes {spread:.2g} "
        "times that between."
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
