"""Calibration of a run's probabilities on the test set, before and after fitting a temperature.

  hsproto calibration --workdir=runs/NAME [--bins=15] [--fit_share=0.2]

Probabilities are the softmax of the run's logits: cosines to the prototypes over its temperature,
or for cross entropy the linear classifier's. One positive number that divides all logits is fitted
by the negative log-likelihood (NLL) of a random share of the test set; NLL and the expected
calibration error (ECE) before and after are both of the rest. It changes no prediction.

ECE is over equal-width bins of the largest probability: the mean of |accuracy - mean confidence| of
a bin, weighted by its share of the images. (Guo et al. 2017.) A table; in full, with the bins, in
WORKDIR/calibration.json.
"""

import math
import os

import numpy as np
from scipy import optimize, special

from hsproto import cli
from hsproto.errors import UserError
from hsproto.evaluation.trained import TrainedRun
from hsproto.parallel import processes
from hsproto.runs import summary as summary_lib
from hsproto.runs.files import to_json, write_text


def nll(logits, labels):
    """Mean negative log-likelihood of labels [N] under softmax(logits [N, K]), in nats."""
    logits = np.asarray(logits, np.float64)
    own = logits[np.arange(len(labels)), labels]
    return float(np.mean(special.logsumexp(logits, axis=1) - own))


def reliability(logits, labels, bins=15):
    """(share, confidence, accuracy), [bins] each, of images by their largest probability.

    Bin m holds confidences in (m/bins, (m+1)/bins]. The means of an empty bin are NaN.
    """
    probabilities = special.softmax(np.asarray(logits, np.float64), axis=1)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts, *sums = (
        np.bincount(place, weights, bins) for weights in (np.ones(len(right)), confidence, right)
    )
    with np.errstate(invalid="ignore"):
        means = [total / counts for total in sums]
    return counts / len(right), *means


def ece(logits, labels, bins=15):
    """Expected calibration error: Σ_m share_m |accuracy_m - confidence_m|."""
    share, confidence, accuracy = reliability(logits, labels, bins)
    return float(np.sum((share * np.abs(accuracy - confidence))[share > 0]))


def fit_temperature(logits, labels):
    """The positive T that minimises the NLL of logits/T.

    NLL is convex in 1/T, so this is where its derivative, the mean of E_p[logit] - own logit, is
    zero. NaN where no finite positive T is best: all labels have the largest logit (T -> 0), or
    they do no better than chance (T -> infinity).
    """
    logits = np.asarray(logits, np.float64)
    own = logits[np.arange(len(labels)), labels]
    # A class that is never predicted has the logit -inf: it has no part in the mean.
    finite = np.where(np.isfinite(logits), logits, 0.0)

    def slope(log_inverse):
        p = special.softmax(logits * np.exp(log_inverse), axis=1)
        return float(np.mean(np.sum(p * finite, axis=1) - own))

    low, high = -12.0, 12.0
    if not np.isfinite(own).all() or slope(low) >= 0 or slope(high) <= 0:
        return math.nan
    return math.exp(-optimize.brentq(slope, low, high, xtol=1e-10))


def calibrate(logits, labels, *, bins=15, fit_share=0.2, seed=0):
    """What calibration.json holds, of logits [N, K] and labels [N]; see the module's head."""
    order = np.random.default_rng(seed).permutation(len(labels))
    count = round(fit_share * len(labels))
    if not 0 < count < len(labels):
        raise UserError(
            f"--fit_share={fit_share} of {len(labels)} images leaves none to "
            f"{'measure' if count else 'fit'}: use a share in 0..1, as 0.2"
        )
    fitted, measured = order[:count], order[count:]
    temperature = fit_temperature(logits[fitted], labels[fitted])
    rest, own = logits[measured], labels[measured]
    result = {
        "accuracy": float(np.mean(np.argmax(rest, axis=1) == own)),
        "fitted_temperature": temperature,
        "images_fitted": count,
        "images_measured": len(measured),
    }
    for name, divisor in (("before", 1.0), ("after", temperature)):
        defined = not math.isnan(divisor)
        scaled = rest / divisor
        result[name] = {
            "nll": nll(scaled, own) if defined else math.nan,
            "ece": ece(scaled, own, bins) if defined else math.nan,
        }
        if defined:
            columns = zip(*map(np.ndarray.tolist, reliability(scaled, own, bins)), strict=True)
            keys = ("share", "confidence", "accuracy")
            result[name]["bins"] = [dict(zip(keys, row, strict=True)) for row in columns]
    return result


def format_table(result):
    """The figures before and after the fit as text."""
    rows = [f"{'':<34}{'before':>9}{'after':>9}"]
    for key, meaning in (("nll", "negative log-likelihood"), ("ece", "expected calibration error")):
        cells = "".join(summary_lib.format_cell(result[when][key]) for when in ("before", "after"))
        rows.append(f"{key:<6}{meaning:<28}{cells}")
    rows.append(f"{'accuracy':<34}{summary_lib.format_cell(result['accuracy'])}")
    rows.append(
        f"{'fitted temperature':<34}{summary_lib.format_cell(result['fitted_temperature'])}"
    )
    if math.isnan(result["fitted_temperature"]):
        rows.append("no temperature is best: of the images to fit by all are right, or too few;")
        rows.append("another --fit_share may help")
    rows.append(
        f"fitted on {result['images_fitted']} images, measured on the other "
        f"{result['images_measured']} of the test set"
    )
    return "\n".join(rows)


def main(argv):
    parser = cli.Parser(__doc__, prog="hsproto calibration")
    cli.add_run_flags(parser)
    parser.add_argument("--bins", type=int, default=15, help="of ECE (default 15)")
    parser.add_argument("--fit_share", type=float, default=0.2, help="of the test set, to fit by")
    parser.add_argument("--seed", type=int, default=0, help="of that share")
    processes.add_flags(parser)
    args = parser.parse_args(argv)
    if args.bins < 1 or args.seed < 0:
        parser.error(f"--bins={args.bins} must be at least 1, and --seed={args.seed} at least 0")
    processes.join(args)
    opened = TrainedRun(args.workdir, args.checkpoint)
    with processes.exit_if_process_lost():
        logits, labels = opened.logits(opened.test)
    options = {"bins": args.bins, "fit_share": args.fit_share, "seed": args.seed}
    result = calibrate(logits, labels, **options)
    if processes.is_main():
        path = os.path.join(args.workdir, "calibration.json")
        write_text(path, to_json({"step": opened.step, **options, **result}, indent=1))
    processes.log_main(format_table(result))
    return 0
