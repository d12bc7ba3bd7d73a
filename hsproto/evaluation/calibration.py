"""Calibration of a run's probabilities on the test set, before and after fitting a temperature.

  hsproto calibration --workdir=runs/NAME [--bins=15] [--fit_share=0.2]

Probabilities are the softmax of the run's logits: cosines to the prototypes over its temperature,
or for cross entropy those of the linear classifier. One positive number that divides all logits is
fitted to the negative log-likelihood (NLL) of a random share of the test set; NLL and the expected
calibration error (ECE) before and after are measured on the rest. It changes no prediction.

ECE is over equal-width bins of the largest probability: the mean of |accuracy - mean confidence|
per bin, weighted by its share of the images (Guo et al. 2017). Prints a table and writes
WORKDIR/calibration.json, with the bins.
"""

import math
from typing import Any

import numpy as np
from scipy import optimize, special

from hsproto.errors import UserError
from hsproto.evaluation import command
from hsproto.evaluation.row_blocks import Scores
from hsproto.evaluation.trained import TrainedRun
from hsproto.runs import summary as summary_lib


def nll(scores: Scores, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood under softmax(logits/temperature), in nats."""

    def of_block(logits, labels):
        logits = _divided(logits, temperature)
        return special.logsumexp(logits, axis=1) - _own(logits, labels)

    return float(np.mean(scores.per_image(of_block)))


def _divided(logits, temperature):
    return np.asarray(logits / temperature, np.float64)


def _own(logits, labels):
    return logits[np.arange(len(labels)), labels]


def reliability(
    scores: Scores, temperature: float = 1.0, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (share, confidence, accuracy), [bins] each, of images by their largest probability.

    Bin m holds confidences in (m/bins, (m+1)/bins]. The means of an empty bin are NaN.
    """

    def of_block(logits, labels):
        probabilities = special.softmax(_divided(logits, temperature), axis=1)
        return np.stack([probabilities.max(axis=1), probabilities.argmax(axis=1) == labels], 1)

    confidence, correct = scores.per_image(of_block).T
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts, *sums = (
        np.bincount(place, weights, bins)
        for weights in (np.ones(len(correct)), confidence, correct)
    )
    with np.errstate(invalid="ignore"):
        means = [total / counts for total in sums]
    return counts / len(correct), *means


def ece(scores: Scores, temperature: float = 1.0, bins: int = 15) -> float:
    """Return the expected calibration error, Σ_m share_m |accuracy_m - confidence_m|."""
    share, confidence, accuracy = reliability(scores, temperature, bins)
    return float(np.sum((share * np.abs(accuracy - confidence))[share > 0]))


def fit_temperature(scores: Scores) -> float:
    """Return the positive T that minimizes the NLL of logits/T.

    NLL is convex in 1/T, so this is where its derivative, the mean of E_p[logit] - own logit, is
    zero. NaN where no finite positive T is optimal: all labels have the largest logit (T -> 0), or
    the logits are no better than chance (T -> infinity).
    """
    own = scores.per_image(lambda logits, labels: _own(np.asarray(logits, np.float64), labels))

    def slope(log_inverse):
        def expected(logits, _):
            logits = np.asarray(logits, np.float64)
            p = special.softmax(logits * np.exp(log_inverse), axis=1)
            # A class that is never predicted has the logit -inf: it does not contribute.
            return np.sum(p * np.where(np.isfinite(logits), logits, 0.0), axis=1)

        return float(np.mean(scores.per_image(expected) - own))

    low, high = -12.0, 12.0
    if not np.isfinite(own).all() or slope(low) >= 0 or slope(high) <= 0:
        return math.nan
    return math.exp(-optimize.brentq(slope, low, high, xtol=1e-10))


def calibrate(
    scores: Scores,
    bins: int = 15,
    fit_share: float = 0.2,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit a temperature and measure before and after: the content of calibration.json.

    Args:
        scores: The logits of images, with their labels.

    Raises:
        UserError: `fit_share` leaves no image to fit on, or none to measure on.
    """
    order = np.random.default_rng(seed).permutation(len(scores))
    count = round(fit_share * len(scores))
    if not 0 < count < len(scores):
        raise UserError(
            f"--fit_share={fit_share} of {len(scores)} images leaves none to "
            f"{'measure' if count else 'fit'}: use a share in 0..1, e.g. 0.2"
        )
    temperature = fit_temperature(scores.take(order[:count]))
    measured = scores.take(order[count:])
    right = measured.per_image(lambda logits, labels: np.argmax(logits, axis=1) == labels)
    result = {
        "accuracy": float(np.mean(right)),
        "fitted_temperature": temperature,
        "images_fitted": count,
        "images_measured": len(measured),
    }
    for name, divisor in (("before", 1.0), ("after", temperature)):
        defined = not math.isnan(divisor)
        result[name] = {
            "nll": nll(measured, divisor) if defined else math.nan,
            "ece": ece(measured, divisor, bins) if defined else math.nan,
        }
        if defined:
            found = reliability(measured, divisor, bins)
            columns = zip(*map(np.ndarray.tolist, found), strict=True)
            keys = ("share", "confidence", "accuracy")
            result[name]["bins"] = [dict(zip(keys, row, strict=True)) for row in columns]
    return result


def format_table(result: dict[str, Any]) -> str:
    """Return the results before and after the fit as text."""
    rows = [f"{'':<34}{'before':>9}{'after':>9}"]
    for key, meaning in (("nll", "negative log-likelihood"), ("ece", "expected calibration error")):
        cells = "".join(summary_lib.format_cell(result[when][key]) for when in ("before", "after"))
        rows.append(f"{key:<6}{meaning:<28}{cells}")
    rows.append(f"{'accuracy':<34}{summary_lib.format_cell(result['accuracy'])}")
    rows.append(
        f"{'fitted temperature':<34}{summary_lib.format_cell(result['fitted_temperature'])}"
    )
    if math.isnan(result["fitted_temperature"]):
        rows.append("no temperature is best: of the images to fit on, all are correct, or too few;")
        rows.append("another --fit_share may help")
    rows.append(
        f"fitted on {result['images_fitted']} images, measured on the other "
        f"{result['images_measured']} of the test set"
    )
    return "\n".join(rows)


def measure(run: TrainedRun, args: Any) -> command.Results:
    """Measure the calibration of a run on its test set."""
    options = {"bins": args.bins, "fit_share": args.fit_share, "seed": args.seed}
    result = calibrate(run.logits(run.test), **options)
    return command.Results({"step": run.step, **options, **result}, format_table(result))


def main(argv: list[str]) -> int:
    parser = command.make_parser(__doc__, "calibration")
    parser.add_argument("--bins", type=int, default=15, help="of ECE (default 15)")
    parser.add_argument("--fit_share", type=float, default=0.2, help="of the test set, to fit on")
    parser.add_argument("--seed", type=int, default=0, help="of that share")
    args = parser.parse_args(argv)
    if args.bins < 1 or args.seed < 0:
        parser.error(f"--bins={args.bins} must be at least 1, and --seed={args.seed} at least 0")
    return command.run("calibration", args, measure)
