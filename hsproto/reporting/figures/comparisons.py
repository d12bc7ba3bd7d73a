"""Pictures that hold runs against each other, loss by loss: `figures(runs)`.

Each is made only where runs have what it shows, for every comparison that `peers` finds:

- dynamics: measures of collapse on the training set over the share of training (paper Figure 2)
- convergence: the share of training until measures are at 95 % of collapse (paper Table 7)
- phase: test accuracy over temperature and batch size (paper Figure 3)
- cosines: cosine matrices of the prototypes
- classes: test accuracy by class, of imbalanced training sets

Values are means over seeds. What is undefined or not measured is left out.
"""

import json
import math
import os
import re

import numpy as np

from hsproto.methods import method_of
from hsproto.reporting import directions, grouping
from hsproto.reporting import table as table_lib
from hsproto.reporting.figures import dynamics as dynamics_figures
from hsproto.reporting.figures import style
from hsproto.runs import run as run_lib
from hsproto.runs import summary as summary_lib

# With more classes than this, accuracy is shown of neighbours together.
MOST_CLASSES = 20


def figures(runs):
    """Yields (file name without ending, figure) of every picture that `runs` have something for."""
    comparisons = grouping.find(runs)
    for kind, draw, found in (
        ("dynamics", dynamics_figures.dynamics, comparisons),
        ("convergence", dynamics_figures.converging, comparisons),
        ("phase", phase, grouping.grids(runs)),
        ("cosines", cosines, comparisons),
        ("classes", classes, comparisons),
    ):
        for name, comparison in named(found):
            figure = draw(comparison)
            if figure is not None:
                yield f"{kind}_{name}", figure


def phase(comparison):
    """Test accuracy over temperature and batch size, a panel a loss; cells without a run hatched.

    The best cell of a panel is printed in bold.
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


def accuracies(runs):
    """{(temperature, batch size): mean test accuracy in %} of finished runs."""
    found = {}
    for run in runs:
        settings, accuracy = run_lib.settings(run), run.summary["test"].get("accuracy")
        if accuracy is not None and math.isfinite(accuracy):
            point = tuple(settings[key] for key in grouping.GRID)
            found.setdefault(point, []).append(100 * accuracy)
    return {point: float(np.mean(values)) for point, values in found.items()}


def cosines(comparison):
    """Cosine matrices of the prototypes, a panel a loss, white at the simplex's -1/(K-1).

    Of each loss the run with the seed of the first; None where no prototypes were kept. The scale
    ends where 99 % of the cosines do, and the diagonal is grey: with many classes all of them are
    close to -1/(K-1). With over MOST_CLASSES of them those that are alike, on average over the
    losses, stand together, in all panels in the same order.
    """
    arrays = {
        loss: summary_lib.read_prototypes(run.workdir)
        for loss, run in _of_one_seed(comparison).items()
    }
    arrays = {loss: array for loss, array in arrays.items() if len(array["prototypes"]) > 1}
    if not arrays:
        return None
    plt, colors = style.matplotlib()
    of_losses = {loss: _between_classes(array["prototypes"]) for loss, array in arrays.items()}
    count = len(next(iter(of_losses.values())))
    target, order = -1 / (count - 1), np.arange(count)
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
    what = f"cosines of prototypes, white at the simplex's {target:.3f}"
    style.title(figure, grouping.describe(comparison, what))
    return figure


def _of_one_seed(comparison):
    """{loss: a run with prototypes}, of the seed of the first where the loss has that."""
    found, seed = {}, None
    for loss, runs in comparison.by_loss.items():
        kept = [run for run in runs if _has_prototypes(run)]
        if kept:
            found[loss] = next((run for run in kept if run.config.get("seed") == seed), kept[0])
            seed = seed if len(found) > 1 else kept[0].config.get("seed")
    return found


def _between_classes(prototypes):
    cosine = directions.cosines(np.asarray(prototypes, float))
    np.fill_diagonal(cosine, np.nan)
    return cosine


def _alike_together(cosine):
    """An order of the classes in which those of high cosines [K, K] are neighbours."""
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
        axis.set_yticks(range(len(names)), _short(names), parse_math=False, fontsize=8)


def _short(names):
    return [name if len(name) <= 12 else f"{name[:11]}…" for name in map(str, names)]


def classes(comparison):
    """Test accuracy by class over bars of the training images; None without an imbalanced set.

    Classes by their training images, most first; with over MOST_CLASSES of them the mean of each
    few neighbours.
    """
    found = {}
    for loss, runs in comparison.by_loss.items():
        several = [run for run in runs if run.summary and run.summary.get("per_class")]
        if several:
            found[loss] = several
    if not found:
        return None
    first = next(iter(found.values()))[0]
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
    for number, (loss, runs) in enumerate(found.items()):
        look = method_of(loss)
        values = np.array([_of_neighbours(_sorted_classes(run)[1], together) for run in runs])
        # Side by side, so that what spans the seeds of one loss does not cover another's.
        place = _of_neighbours(places, together)
        place += together * 0.11 * (number - (len(found) - 1) / 2)
        some = np.isfinite(values).any(axis=0)
        values, place = values[:, some], place[some]
        mean, low, high = (of(values, axis=0) for of in (np.nanmean, np.nanmin, np.nanmax))
        axis.errorbar(
            place, mean, (mean - low, high - mean), color=look.color, marker=look.marker,
            markersize=5, linewidth=0.8, elinewidth=1.2,
        )  # fmt: skip
    axis.set(ylabel="test accuracy, %", ylim=(0, 103), xlim=(0.4, len(counts) + 0.6))
    also = f", means of {together} neighbours" if together > 1 else ""
    axis.set_xlabel(f"classes by training images, most first{also}")
    _name_classes(axis, first)
    axis.grid(axis="y", alpha=0.25)
    what = "test accuracy by class, mean over seeds, worst to best"
    style.title(figure, grouping.describe(comparison, what))
    style.legend(figure, style.loss_handles(found))
    return figure


def _name_classes(axis, run):
    """The classes' names, most images first, where there are few enough and they are known."""
    counts = np.array(run.summary["per_class"]["train_images"])
    if len(counts) > MOST_CLASSES or not _has_prototypes(run):
        return
    names = _short(summary_lib.read_prototypes(run.workdir)["class_names"])
    order = np.argsort(-counts, kind="stable")
    names = [names[i] for i in order]
    turn = 45 if max(map(len, names)) * len(names) > 90 else 0
    axis.set_xticks(range(1, len(names) + 1), names, parse_math=False, rotation=turn)


def _has_prototypes(run):
    return os.path.isfile(os.path.join(run.workdir, "prototypes.npz"))


def _sorted_classes(run):
    """(training images [K], test accuracy in % [K]) of the classes, most images first."""
    per_class = run.summary["per_class"]
    counts = np.array(per_class["train_images"])
    order = np.argsort(-counts, kind="stable")
    return counts[order], 100 * np.array(per_class["test_accuracy"], float)[order]


def _of_neighbours(values, together):
    """Means of each `together` values that stand side by side; of those that are defined."""
    parts = [values[start : start + together] for start in range(0, len(values), together)]
    parts = [part[np.isfinite(part)] for part in parts]
    return np.array([part.mean() if len(part) else np.nan for part in parts])


def named(found):
    """Yields (file name, comparison): the data set, and what sets it off the others on that."""
    names = {}
    for comparison in found:
        peers_there = [other for other in found if other.data == comparison.data]
        words = [comparison.data]
        for key in _telling([peer.settings for peer in peers_there]):
            if key in comparison.settings:
                words += [key, table_lib.format_value(comparison.settings[key])]
        name = re.sub(r"[^A-Za-z0-9.]+", "_", "_".join(words)).strip("._")[:100] or "data"
        same = names[name.lower()] = names.get(name.lower(), 0) + 1
        yield f"{name}__{same}" if same > 1 else name, comparison


def _telling(settings):
    """As few keys as tell all of the settings apart; the later ones are left out first."""
    keys = sorted({key for values in settings for key in values})
    for key in reversed(keys):
        fewer = [other for other in keys if other != key]
        told = {json.dumps([values.get(other) for other in fewer]) for values in settings}
        if len(told) == len(settings):
            keys = fewer
    return keys
