"""Figures of how the geometry of the training set develops, per loss of a `grouping.Comparison`.

`dynamics` over the share of training (paper Figure 2), `converging` by the share of it that
measures need to 95 % of collapse (paper Table 7).
"""

import math

import numpy as np

from hsproto import geometry
from hsproto.methods import method_of
from hsproto.metrics import CONVERGENCE, DYNAMICS, METRICS
from hsproto.reporting import convergence as convergence_lib
from hsproto.reporting import grouping
from hsproto.reporting.figures import style as style_lib
from hsproto.reporting.figures.style import (
    handle,
    legend,
    log_scale,
    loss_handles,
    panels,
    title_of,
)
from hsproto.runs import run as run_lib

# Where those that never converge stand, on an axis of which 100 is the end of training.
NEVER = 128
GUIDES = {
    "optimum": dict(color="0.35", linestyle="--"),
    "95 % of collapse": dict(color="0.35", linestyle=":"),
}


def dynamics(comparison):
    """Measures of collapse on the training set over the share of training; None without any.

    A line a loss, the mean over seeds at each evaluation, in a band from the least to the most.
    """
    curves = {
        measure: {
            loss: points
            for loss, runs in comparison.by_loss.items()
            if len(points := curve(runs, measure, positive=METRICS[measure].log_scale))
        }
        for measure in DYNAMICS
    }
    curves = {measure: found for measure, found in curves.items() if found}
    if not curves:
        return None
    figure, axes = panels(len(curves), 3, 3.8, 2.7, margin=1.3)
    guided = set()
    for axis, (measure, found) in zip(axes, curves.items(), strict=True):
        title, falls = METRICS[measure].title, METRICS[measure].log_scale
        for loss, (share, mean, low, high) in found.items():
            look = method_of(loss)
            axis.plot(
                share, mean, color=look.color, marker=look.marker, markersize=4.5, linewidth=1.5,
                markevery=max(1, len(share) // 8), label=title_of(loss),
            )  # fmt: skip
            axis.fill_between(share, low, high, color=look.color, alpha=0.18, linewidth=0)
        guided |= _guides(axis, comparison, measure, falls)
        # A log axis has no place for it.
        axis.set_title(f"{title} (optimum 0)" if falls else title, fontsize=10.5)
        axis.set(xlim=(0, 102), xlabel="share of training, %")
        axis.grid(alpha=0.25)
        if falls:
            log_scale(axis)
    style_lib.title(figure, grouping.describe(comparison, "geometry of the training set"))
    shown = {
        loss: runs
        for loss, runs in comparison.by_loss.items()
        if any(loss in found for found in curves.values())
    }
    handles = loss_handles(shown)
    handles += [handle(name, **GUIDES[name]) for name in GUIDES if name in guided]
    legend(figure, handles)
    return figure


def curve(runs, measure, positive=False):
    """(share of training in %, mean, least, most) of a measure over runs, [N] each, or ().

    positive: values that are not above 0 are left out, as what is not finite is.
    """
    at = {}
    for run in runs:
        total = run_lib.total_steps(run)
        steps, values = convergence_lib.series(run.records, measure)
        for step, value in zip(steps, values, strict=True):
            if math.isfinite(value) and (value > 0 or not positive):
                at.setdefault(100 * step / total, []).append(value)
    if not at:
        return ()
    shares = sorted(at)
    return (
        np.array(shares),
        *(np.array([of(at[s]) for s in shares]) for of in (np.mean, min, max)),
    )


def converging(comparison):
    """Share of training until measures stay at 95 % of collapse; None where nothing was measured.

    A panel a measure, a row a loss, a small mark a seed; those that never get there stand in a
    column of their own.
    """
    found = {measure: {} for measure in CONVERGENCE}
    for loss, runs in comparison.by_loss.items():
        for measure in CONVERGENCE:
            if shares := convergence_shares(runs, measure):
                found[measure][loss] = shares
    found = {measure: shares for measure, shares in found.items() if shares}
    if not found:
        return None
    losses = [loss for loss in comparison.by_loss if any(loss in s for s in found.values())]
    figure, axes = panels(len(found), 5, 2.4, 0.36 * len(losses) + 0.3, sharey=True)
    for axis, (measure, shares) in zip(axes, found.items(), strict=True):
        axis.axvspan(100, NEVER * 2 - 100, color="0.92", linewidth=0)
        for row, loss in enumerate(losses):
            if loss in shares:
                _convergence_row(axis, row, method_of(loss), shares[loss])
            else:
                axis.text(4, row, "not measured", va="center", fontsize=8, color="0.4")
        axis.set_title(METRICS[measure].title, fontsize=10.5)
        axis.set(xlim=(0, NEVER * 2 - 100), ylim=(len(losses) - 0.5, -0.75))
        axis.set_xticks([0, 50, 100, NEVER], ["0", "50", "100", "never"], fontsize=9)
        axis.set_yticks(range(len(losses)), [title_of(loss) for loss in losses])
        axis.grid(axis="x", alpha=0.25)
    note = "small marks: seeds, <: by the first evaluation"
    figure.supxlabel(f"share of training, % ({note})", fontsize=10)
    style_lib.title(
        figure,
        grouping.describe(
            comparison, "share of training until the geometry is at 95 % of collapse"
        ),
    )
    return figure


def convergence_shares(runs, measure):
    """[(share of training in %, or None for never, whether by the first evaluation)] of runs.

    Those that are not finished, or where it was never measured, are left out.
    """
    shares = []
    for run in runs:
        if run.summary is None or not len(convergence_lib.series(run.records, measure)[0]):
            continue
        if result := convergence_lib.to_collapse(run).get(measure):
            shares.append((result["share"], result["by_first"]))
    return shares


def _convergence_row(axis, row, look, shares):
    reached = [share for share, _ in shares if share is not None]
    never = len(shares) - len(reached)
    style = dict(color=look.color, marker=look.marker, linestyle="none")
    if never:
        axis.plot([NEVER], [row], **style, markersize=7)
        if reached:
            text = f"{never} of {len(shares)}"
            axis.text(NEVER, row - 0.2, text, ha="center", va="bottom", fontsize=8)
    if not reached:
        return
    mean = np.mean(reached)
    axis.hlines(row, 0, mean, color=look.color, linewidth=1.2, alpha=0.6)
    if len(reached) > 1:
        axis.plot(reached, [row] * len(reached), **style, markersize=3, alpha=0.5)
    axis.plot([mean], [row], **style, markersize=7)
    first = "<" if all(by_first for share, by_first in shares if share is not None) else ""
    side = 1 if mean < 60 else -1
    place = max(reached) + 7 if side > 0 else min(reached) - 7
    align = "left" if side > 0 else "right"
    axis.text(place, row - 0.08, f"{first}{mean:.0f}", ha=align, va="bottom", fontsize=8.5)


def _guides(axis, comparison, measure, falls):
    """Lines at the optimum and at 95 % of collapse; the names of those of GUIDES that it has."""
    sizes = [
        convergence_lib.sizes(run.config) for runs in comparison.by_loss.values() for run in runs
    ]
    sizes = {(classes, dim) for classes, dim, _ in sizes if classes >= 2}
    values = {
        "optimum": {geometry.optimum(*size)[measure] for size in sizes},
        "95 % of collapse": {
            convergence_lib.collapse_thresholds(*size, 2).get(measure) for size in sizes
        },
    }
    left_out = {None, 0.0} if falls else {None}
    values = {name: at - left_out for name, at in values.items()}
    for name, at in values.items():
        for value in at:
            # Not axhline, which makes no room for itself.
            axis.plot([0, 102], [value] * 2, **GUIDES[name], linewidth=1.3)
    return {name for name, at in values.items() if at}
