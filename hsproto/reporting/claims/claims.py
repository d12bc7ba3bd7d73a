"""The claims of the paper, and further ones, as directions of differences; and what studies say.

On a cell (a set, or a variant of its training) a claim is confirmed if the difference is
significant at 5 % after Holm's correction and has the claim's direction, contradicted if it has
the other, else open. That two are level is confirmed by an interval within ±0.5 points. On a set it
is confirmed if it is on more than half of the set's variants and contradicted on none, and the
other way round; on all sets it holds or fails by the same rule.
"""

from typing import NamedTuple

import numpy as np

from hsproto.reporting.claims import paired
from hsproto.reporting.claims.records import Records, Run

LEVEL = 0.05
EQUIVALENT = 0.005  # accuracies that differ by less are level
HOLDS, FAILS, OPEN = "holds", "fails", "cannot tell"
_WORDS = {1: HOLDS, -1: FAILS, 0: OPEN}


class Claim(NamedTuple):
    """A direction of a difference, on all cells of a study.

    Attributes:
        text: The claim, with the methods' names in braces.
        source: Where it stands in the paper; empty: it is not the paper's.
        study: The study that tests it.
        first: The method that it is about.
        second: The method that it is compared with.
        metric: What differs, as in the records; "accuracy" is by image.
        sign: 1: the first's is larger; -1: smaller; 0: they are level.
        second_study: That of the second's runs, `study` with a suffix that its variants have, too;
            empty: `study`.
    """

    text: str
    source: str
    study: str
    first: str
    second: str
    metric: str = "accuracy"
    sign: int = 1
    second_study: str = ""


_SPHERE = "normface", "ntce", "nonl"


def _against(second, methods, text, source, study, metric="accuracy", sign=1):
    """The same claim on several methods; `text` goes between their names."""
    for first in methods:
        yield Claim(f"{{{first}}} {text} {{{second}}}", source, study, first, second, metric, sign)


def _accuracy(where, source, study):
    for second, methods in (("ce", _SPHERE), ("normface", ("ntce", "nonl"))):
        text = f"is more accurate {where}than".replace("  ", " ")
        yield from _against(second, methods, text, source, study)


def _collapse(study, where=""):
    """By three measures, of which only the images' distances within a class are the paper's."""
    further = f"collapses further {where}(NC1) than"
    for metric, text, source in (
        ("nc1", further, ""),
        ("cdnv", f"collapses further {where}(CDNV) than", ""),
        (
            "instance_alignment",
            f"has images of a class nearer to each other {where}than",
            "Table 3",
        ),
    ):
        yield from _against("ce", _SPHERE, text, source, study, metric, -1)
    yield from _against("ntce", ["nonl"], further, "", study, "nc1", -1)


_HEADS = (
    *_accuracy("", "Table 1", "accuracy"),
    *_against("ce", ["scl_fp"], "is as accurate as", "", "accuracy", sign=0),
    *_accuracy("behind a hidden layer ", "Table 1", "mlp"),
    *_collapse("mlp", "behind a hidden layer "),
    # In the paper's Table 6 NormFace is below cross entropy on CIFAR-100.
    *_against("ce", ["normface"], "is more accurate on long tails than", "", "longtail"),
    *_against("ce", ["ntce", "nonl"], "is more accurate on long tails than", "Table 6", "longtail"),
    *_against(
        "normface", ["ntce", "nonl"], "is more accurate on long tails than", "Table 6", "longtail"
    ),
    *(
        Claim(
            f"{{{first}}} is more accurate on long tails than {{ce}} with {what}",
            "", "longtail", first, "ce", second_study=f"longtail_{name}",
        )
        for name, what in (
            ("adjusted", "logit adjustment"), ("balanced", "class-balanced batches")
        )
        for first in ("ntce", "nonl")
    ),
    *_collapse("accuracy"),
    *_against(
        "ce", _SPHERE, "has features nearer to their prototypes than",
        "Table 3", "accuracy", "weight_alignment", -1,
    ),
    *_against(
        "ce", _SPHERE, "has prototypes that span more dimensions than",
        "Table 3", "accuracy", "erank_weights",
    ),
    *_against("ce", _SPHERE, "transfers better than", "Table 4", "accuracy", "transfer"),
    *_against("ce", ["etf_dr"], "transfers worse than", "Table 4", "accuracy", "transfer", -1),
    *_against("ce", _SPHERE, "is better calibrated than", "", "accuracy", "ece", -1),
    *_against(
        "ce", (*_SPHERE, "scl_fp"), "ranks images better (MAP@R) than", "", "accuracy", "map@r"
    ),
    *_against(
        "ce", _SPHERE, "detects other sets better (50th neighbor) than", "", "accuracy", "ood_knn"
    ),
    *_against(
        "ce", _SPHERE, "detects other sets better (cosine with a prototype) than",
        "", "accuracy", "ood_max_cosine",
    ),
    *_against(
        "ce", (*_SPHERE, "scl_fp"), "classifies new classes better from 10 images than",
        "", "new_classes", "new_10_shot",
    ),
    *_against(
        "ce", (*_SPHERE, "scl_fp"), "trained on superclasses tells fine classes apart better than",
        "", "coarse", "fine_class_means",
    ),
    *_against(
        "ce", _SPHERE, "is more accurate on corrupted images than",
        "Table 5", "robustness", "corrupted",
    ),
    # Two causes, in pairs that differ in one of them: without the own class, with instances.
    *_against("normface", ["decoupled_normface"], "is more accurate than", "", "accuracy"),
    *_against("ntce", ["nonl"], "is more accurate than", "Table 1", "accuracy"),
    *_against("decoupled_normface", ["nonl"], "is more accurate than", "", "accuracy"),
    *_against("ce", ["ce_smoothed"], "is more accurate than", "", "accuracy"),
)  # fmt: skip

_SCRATCH = (
    *_accuracy("from scratch ", "Table 1", "scratch"),
    *_collapse("scratch"),
    *_against("ce", _SPHERE, "is better calibrated than", "", "scratch", "ece", -1),
    *_against("ce", _SPHERE, "ranks images better (MAP@R) than", "", "scratch", "map@r"),
)
# By the regime of records.
CLAIMS = {"heads": _HEADS, "scratch": _SCRATCH}


class Cell(NamedTuple):
    """What one set or variant says on a claim; `corrected` is the p after Holm's correction."""

    set: str
    variant: str
    difference: paired.Difference
    corrected: float
    outcome: int  # 1: confirmed, -1: contradicted, 0: open


class Verdict(NamedTuple):
    """What all cells say on a claim.

    Attributes:
        claim: The claim.
        cells: By (set, variant), None for what was not run.
        word: HOLDS, FAILS or OPEN; None if nothing has been run.
        sets: How many sets have been run.
    """

    claim: Claim
    cells: dict[tuple[str, str], Cell | None]
    word: str | None
    sets: int


def values(run: Run, metric: str) -> float | None:
    """Return a run's metric; "transfer" and "ood_knn" are means over the other sets."""
    if run.metrics is None:
        return None
    if metric in run.metrics:
        return run.metrics[metric]
    parts = [value for name, value in run.metrics.items() if name.startswith(f"{metric}_")]
    return float(np.mean(parts)) if parts else None


def difference(first: list[Run], second: list[Run], metric: str) -> paired.Difference | None:
    """Return the difference of two methods on the seeds that both have; None of less than two."""
    mine, other = ({run.seed: run for run in runs} for runs in (first, second))
    seeds = sorted(set(mine) & set(other))
    if metric == "accuracy":
        seeds = [seed for seed in seeds if len(mine[seed].right) and len(other[seed].right)]
        rows = [np.stack([runs[s].right for s in seeds]) if seeds else [] for runs in (mine, other)]
        return paired.of_images(*rows) if len(seeds) > 1 else None
    if seeds and all(metric in runs[seed].by_image for runs in (mine, other) for seed in seeds):
        rows = [
            np.stack([runs[s].by_image[metric].counts for s in seeds]) for runs in (mine, other)
        ]
        (of,) = {runs[s].by_image[metric].of for runs in (mine, other) for s in seeds}
        return paired.of_images(*rows, of) if len(seeds) > 1 else None
    pairs = [(values(mine[seed], metric), values(other[seed], metric)) for seed in seeds]
    pairs = [pair for pair in pairs if None not in pair]
    return paired.of_seeds(*zip(*pairs, strict=True)) if len(pairs) > 1 else None


class Comparisons:
    """All differences between methods in records, with corrected p, each computed once."""

    def __init__(self, records: Records):
        self._records, self._families = records, {}
        self._runs: dict[tuple, list[Run]] = {}
        for run in records.runs:
            place = run.study, run.set, run.variant, run.method
            self._runs.setdefault(place, []).append(run)

    def places(self, study: str) -> list[tuple[str, str]]:
        """Return the (set, variant) of a study, whether run or not, in the protocol's order."""
        known = self._records.studies.get(study)
        run = [place[1:3] for place in self._runs if place[0] == study]
        return list(dict.fromkeys([*(known.places if known else ()), *run]))

    def runs(self, study: str, dataset: str, variant: str, method: str) -> list[Run]:
        return self._runs.get((study, dataset, variant, method), [])

    def between(
        self,
        study: str,
        place: tuple[str, str],
        metric: str,
        first: str,
        second: str,
        second_study: str = "",
    ) -> tuple[paired.Difference, float] | None:
        """Return (difference, p corrected over the methods compared with `second` there)."""
        return self._family(study, place, metric, second, second_study).get(first)

    def _family(self, *key):
        if key not in self._families:
            found = self._differences(*key)
            corrected = paired.holm([gap.p for gap in found.values()])
            self._families[key] = dict(
                zip(found, zip(found.values(), corrected, strict=True), strict=True)
            )
        return self._families[key]

    def _differences(self, study, place, metric, second, second_study):
        dataset, variant = place
        if second_study:
            variant += f",{second_study.removeprefix(study).strip('_')}"
        other = self.runs(second_study or study, dataset, variant, second)
        found = {
            method: difference(self.runs(study, *place, method), other, metric)
            for method in self._records.methods
            if second_study or method != second
        }
        return {method: gap for method, gap in found.items() if gap is not None}


def judge(claim: Claim, comparisons: Comparisons) -> Verdict:
    """Return what the records say on a claim."""
    cells: dict[tuple[str, str], Cell | None] = {}
    by_set: dict[str, list[int]] = {}
    for place in comparisons.places(claim.study):
        found = comparisons.between(
            claim.study, place, claim.metric, claim.first, claim.second, claim.second_study
        )
        cells[place] = None
        if found is not None:
            outcome = _outcome(claim.sign, *found)
            cells[place] = Cell(*place, *found, outcome)
            by_set.setdefault(place[0], []).append(outcome)
    word = _WORDS[_majority([_majority(outcomes) for outcomes in by_set.values()])]
    return Verdict(claim, cells, word if by_set else None, len(by_set))


def _outcome(sign: int, gap: paired.Difference, corrected: float) -> int:
    if sign == 0:
        if -EQUIVALENT < gap.low and gap.high < EQUIVALENT:
            return 1
        return -1 if gap.low > EQUIVALENT or gap.high < -EQUIVALENT else 0
    if corrected >= LEVEL:
        return 0
    return 1 if gap.mean * sign > 0 else -1


def _majority(outcomes: list[int]) -> int:
    """1 or -1 if more than half of the outcomes are that and none is the opposite, else 0."""
    for one in (1, -1):
        if 2 * outcomes.count(one) > len(outcomes) and -one not in outcomes:
            return one
    return 0
