"""Pictures that compare runs, loss by loss: `figures(runs)`.

Each is drawn only if runs have what it shows, for every comparison that `grouping.find` finds:

- dynamics: measures of collapse on the training set over the share of training (paper Figure 2)
- convergence: the share of training until measures are at 95 % of collapse (paper Table 7)
- phase: test accuracy over temperature and batch size (paper Figure 3)
- cosines: cosine matrices of the prototypes
- classes: test accuracy by class, of imbalanced training sets

Values are means over seeds. What is undefined or was not measured is left out.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hsproto.methods import method_of
from hsproto.reporting import directions, grouping
from hsproto.reporting import table as table_lib
from hsproto.reporting.figures import dynamics as dynamics_figures
from hsproto.reporting.figures import style
from hsproto.reporting.grouping import Comparison
from hsproto.runs import run as run_lib
from hsproto.runs import summary as summary_lib
from hsproto.runs.run import Run

if TYPE_CHECKING:  # matplotlib is imported where it is used, see style.matplotlib
    from matplotlib.figure import Figure

# With more classes than this, accuracy is the mean of neighbors.
MOST_CLASSES = 20


def figures(runs: Sequence[Run]) -> Iterator[tuple[str, "Figure"]]:
    """Yield (file name without ending, figure) of every picture that runs hold something for."""
    comparisons = grouping.find(runs)
    for kind, draw, members in (
        ("dynamics", dynamics_figures.dynamics, comparisons),
        ("convergence", dynamics_figures.converging, comparisons),
        ("phase", phase, grouping.grids(runs)),
        ("cosines", cosines, comparisons),
        ("classes", classes, comparisons),
    ):
        for name, comparison in named(members):
            figure = draw(comparison)
            if figure is not None:
                yield f"{kind}_{name}", figure


def phase(comparison: Comparison) -> "Figure | None":
    """Draw test accuracy over temperature and batch size, one panel per loss.

    The best cell of a panel is printed in bold, cells without a run are hatched.
    """
    of_losses = {loss: accuracies(runs) for loss, runs in comparison.by_loss.items()}
    of_losses = {loss: cells for loss, cells in of_losses.items() if cells}
    if not of_losses:
        return None
    plt, colors = style.matplotlib()
    points = {point for cells in of_losses.values() for point in cells}
    temperatures, batches = (sorted({point[i] for point in points}) for i in (0, 1))
    values = [value for cells in of_losses.values() for value in cells.values()]
    norm = colors.Normalize(min(values), max(max(values), min(values) + 1e-6))
    width, height = 0.52 * len(batches) + 0.9, 0.34 * len(temperatures) + 0.4
    figure, axes = style.panels(len(of_losses), 3, max(width, 2.6), height, margin=1.2, sharey=True)
    for axis, (loss, cells) in zip(axes, of_losses.items(), strict=True):
        grid = np.full((len(temperatures), len(batches)), np.nan)
        for (temperature, batch), value in cells.items():
            grid[temperatures.index(temperature), batches.index(batch)] = value
        axis.patch.set(facecolor="0.93", hatch="////", edgecolor="0.7", linewidth=0)
        edges = [np.arange(size + 1) - 0.5 for size in (len(batches), len(temperatures))]
        mesh = axis.pcolormesh(*edges, np.ma.masked_invalid(grid), norm=norm, cmap="cividis")
        for (row, column), value in np.ndenumerate(grid):
            if np.isfinite(value):
                axis.text(
                    column, row, f"{value:.1f}", ha="center", va="center", fontsize=8.5,
                    color="white" if norm(value) < 0.55 else "black",
                    fontweight="bold" if value == np.nanmax(grid) else "normal",
                )  # fmt: skip
        axis.set_title(style.title_of(loss), fontsize=10.5)
        axis.set_xticks(range(len(batches)), batches)
        axis.set_yticks(range(len(temperatures)), [f"{t:g}" for t in temperatures])
    figure.supxlabel("batch size", fontsize=10)
    figure.supylabel("temperature", fontsize=10)
    figure.colorbar(mesh, ax=axes, label="test accuracy, %", fraction=0.04, pad=0.02)
    what = "temperature and batch size, the best of each loss in bold"
    style.title(figure, grouping.describe(comparison, what))
    return figure


def accuracies(runs: Iterable[Run]) -> dict[tuple, float]:
    """Return {(temperature, batch size): mean test accuracy in %} of finished runs."""
    by_point = {}
    for run in runs:
        settings, accuracy = run_lib.settings(run), run.summary["test"].get("accuracy")
        if accuracy is not None and math.isfinite(accuracy):
            point = tuple(settings[key] for key in grouping.GRID)
            by_point.setdefault(point, []).append(100 * accuracy)
    return {point: float(np.mean(values)) for point, values in by_point.items()}


def cosines(comparison: Comparison) -> "Figure | None":
    """Draw the cosine matrices of the prototypes, one panel per loss, white at -1/(K-1).

    Of each loss the run with the seed of the first; None if no run has prototypes. The scale ends
    at 99 % of the cosines and the diagonal is gray: with many classes all of them are close to
    -1/(K-1). More than MOST_CLASSES classes are sorted, in all panels alike, such that those with
    high cosines, on average over the losses, are neighbors.
    """
    arrays = {
        loss: summary_lib.read_prototypes(run.workdir)
        for loss, run in _of_one_seed(comparison).items()
    }
    arrays = {loss: array for loss, array in arrays.items() if len(array["prototypes"]) > 1}
    if not arrays:
        return None
    plt, colors = style.matplotlib()
    count = len(next(iter(arrays.values()))["prototypes"])
    some = directions.some_classes(count)
    of_losses = {loss: _between_classes(a["prototypes"][some]) for loss, a in arrays.items()}
    target, order = -1 / (count - 1), np.arange(len(some))
    if count > MOST_CLASSES:
        order = _alike_together(np.mean([*of_losses.values()], axis=0))
    offsets = np.concatenate([np.abs(cosine - target).ravel() for cosine in of_losses.values()])
    reach = max(0.1, np.nanpercentile(offsets, 99))
    norm = colors.Normalize(target - reach, target + reach)
    width, height = (6.0, 4.5) if len(of_losses) == 1 else (3.2, 3.0)
    figure, axes = style.panels(len(of_losses), 4, width, height, layout="compressed")
    cmap = plt.get_cmap("RdBu_r").with_extremes(bad="0.6")
    for axis, (loss, cosine) in zip(axes, of_losses.items(), strict=True):
        image = axis.imshow(
            cosine[np.ix_(order, order)], norm=norm, cmap=cmap, interpolation="nearest"
        )
        spread = f"{np.nanmean(cosine):.3f} ± {np.nanstd(cosine):.3f}"
        axis.set_title(f"{style.title_of(loss)}\n{spread}", fontsize=10)
        first = axis.get_subplotspec().is_first_col()
        _class_ticks(axis, [str(name) for name in arrays[loss]["class_names"]], first)
    figure.colorbar(
        image, ax=axes, extend="both", shrink=0.85, fraction=0.05, pad=0.02, label="cosine"
    )
    of_some = directions.of_some_classes(count)
    what = f"cosines of prototypes{of_some}, white at the simplex's {target:.3f}"
    style.title(figure, grouping.describe(comparison, what))
    return figure


def _of_one_seed(comparison):
    """{loss: a run with prototypes}, of the seed of the first loss if there is one."""
    chosen, seed = {}, None
    for loss, runs in comparison.by_loss.items():
        runs = [run for run in runs if summary_lib.has_prototypes(run.workdir)]
        if runs:
            chosen[loss] = next((run for run in runs if run.config.get("seed") == seed), runs[0])
            seed = seed if len(chosen) > 1 else runs[0].config.get("seed")
    return chosen


def _between_classes(prototypes):
    cosine = directions.cosines(np.asarray(prototypes, float))
    np.fill_diagonal(cosine, np.nan)
    return cosine


def _alike_together(cosine):
    """An order of the classes in which those of high cosines [K, K] are neighbors."""
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    distances = np.nan_to_num(1 - (cosine + cosine.T) / 2, nan=1.0)
    np.fill_diagonal(distances, 0)
    return hierarchy.leaves_list(hierarchy.linkage(squareform(distances), "average"))


def _class_ticks(axis, names, named):
    axis.set(xticks=[], yticks=[])
    if len(names) > MOST_CLASSES:
        axis.set_xlabel(f"{len(names)} classes, alike together")
    elif named:
        shown = style.class_names(names, 12)
        axis.set_yticks(range(len(names)), shown, parse_math=False, fontsize=8)


def classes(comparison: Comparison) -> "Figure | None":
    """Draw test accuracy by class over bars of the training images; None of balanced sets.

    Classes are sorted by their training images, most first; of more than MOST_CLASSES the means of
    neighbors are shown.
    """
    by_loss = {}
    for loss, runs in comparison.by_loss.items():
        runs = [run for run in runs if run.summary and run.summary.get("per_class")]
        if runs:
            by_loss[loss] = runs
    if not by_loss:
        return None
    first = next(iter(by_loss.values()))[0]
    counts = _sorted_classes(first)[0]
    together = math.ceil(len(counts) / MOST_CLASSES)
    figure, (axis,) = style.panels(1, 1, 9, 4, margin=1.0)
    bars = axis.twinx()
    places = np.arange(1.0, len(counts) + 1)
    bars.bar(places, counts, color="0.9", width=0.94)
    bars.set_ylabel("training images (bars)")
    style.log_scale(bars)
    axis.set_zorder(bars.get_zorder() + 1)
    axis.patch.set_visible(False)
    for number, (loss, runs) in enumerate(by_loss.items()):
        method = method_of(loss)
        values = np.array([_mean_of_neighbors(_sorted_classes(run)[1], together) for run in runs])
        # Side by side, so that what spans the seeds of one loss does not cover another's.
        place = _mean_of_neighbors(places, together)
        place += together * 0.11 * (number - (len(by_loss) - 1) / 2)
        some = np.isfinite(values).any(axis=0)
        values, place = values[:, some], place[some]
        mean, low, high = (reduce(values, axis=0) for reduce in (np.nanmean, np.nanmin, np.nanmax))
        axis.errorbar(
            place, mean, (mean - low, high - mean), color=method.color, marker=method.marker,
            markersize=5, linewidth=0.8, elinewidth=1.2,
        )  # fmt: skip
    axis.set(ylabel="test accuracy, %", ylim=(0, 103), xlim=(0.4, len(counts) + 0.6))
    also = f", means of {together} neighbors" if together > 1 else ""
    axis.set_xlabel(f"classes by training images, most first{also}")
    _name_classes(axis, first)
    axis.grid(axis="y", alpha=0.25)
    what = "test accuracy by class, mean over seeds, worst to best"
    style.title(figure, grouping.describe(comparison, what))
    style.legend(figure, style.loss_handles(by_loss))
    return figure


def _name_classes(axis, run):
    """Write the names of the classes below the axis, if they are known and few enough."""
    counts = np.array(run.summary["per_class"]["train_images"])
    if len(counts) > MOST_CLASSES or not summary_lib.has_prototypes(run.workdir):
        return
    names = style.class_names(summary_lib.read_prototypes(run.workdir)["class_names"], 12)
    order = np.argsort(-counts, kind="stable")
    names = [names[i] for i in order]
    turn = 45 if max(map(len, names)) * len(names) > 90 else 0
    axis.set_xticks(range(1, len(names) + 1), names, parse_math=False, rotation=turn)


def _sorted_classes(run):
    """(training images [K], test accuracy in % [K]), most images first."""
    per_class = run.summary["per_class"]
    counts = np.array(per_class["train_images"])
    order = np.argsort(-counts, kind="stable")
    return counts[order], 100 * np.array(per_class["test_accuracy"], float)[order]


def _mean_of_neighbors(values, together):
    """Means of each `together` neighboring values, as far as these are defined."""
    parts = [values[start : start + together] for start in range(0, len(values), together)]
    parts = [part[np.isfinite(part)] for part in parts]
    return np.array([part.mean() if len(part) else np.nan for part in parts])


def named(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, Comparison]]:
    """Yield (file name, comparison): the data set, and what separates it from others on that."""
    names = {}
    for comparison in comparisons:
        peers = [other.settings for other in comparisons if other.data == comparison.data]
        words = [comparison.data]
        for key in _separating(peers):
            if key in comparison.settings:
                words += [key, table_lib.format_value(comparison.settings[key])]
        name = re.sub(r"[^A-Za-z0-9.]+", "_", "_".join(words)).strip("._")[:100] or "data"
        same = names[name.lower()] = names.get(name.lower(), 0) + 1
        yield f"{name}__{same}" if same > 1 else name, comparison


def _separating(settings):
    """As few keys as distinguish all of the settings; later ones are left out first."""
    keys = sorted({key for values in settings for key in values})
    for key in reversed(keys):
        fewer = [other for other in keys if other != key]
        points = {json.dumps([values.get(other) for other in fewer]) for values in settings}
        if len(points) == len(settings):
            keys = fewer
    return keys
