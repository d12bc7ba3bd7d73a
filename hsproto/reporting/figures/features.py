"""Pictures of features: the cosines of class means, spectra, and a map in two dimensions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hsproto.reporting.directions import cosines, of_some_classes, some_classes, unit
from hsproto.reporting.figures import style
from hsproto.reporting.figures.runs import cosine_figure

if TYPE_CHECKING:  # matplotlib is imported where it is used, see style.matplotlib
    from matplotlib.figure import Figure

MOST_NAMES = 20  # in a legend; more classes are told apart by color alone


def cosines_figure(
    means: np.ndarray, prototypes: np.ndarray | None, names: Sequence[str]
) -> "Figure":
    """Draw the cosines between class means [K, D] and, where given, between prototypes [K, D]."""
    if prototypes is not None:
        return cosine_figure({"prototypes": prototypes, "class_means": means, "class_names": names})
    plt, colors = style.matplotlib()
    target = -1 / max(len(means) - 1, 1)
    figure, (axis,) = style.panels(1, 1, 6.4, 4.6, margin=0.8)
    norm = colors.TwoSlopeNorm(vcenter=max(target, -0.999), vmin=-1, vmax=1)
    matrix, some = cosines(means[some_classes(len(means))]), of_some_classes(len(means))
    image = axis.imshow(matrix, norm=norm, cmap="RdBu_r", interpolation="nearest")
    axis.set_title(
        f"cosines between class means{some}, white at the simplex's {target:.4f}", fontsize=10.5
    )
    if len(names) <= MOST_NAMES:
        short = style.class_names(names, 16)
        axis.set_xticks(range(len(names)), short, rotation=90, parse_math=False)
        axis.set_yticks(range(len(names)), short, parse_math=False)
    figure.colorbar(image, label="cosine", shrink=0.85)
    return figure


def spectrum_figure(means: np.ndarray, within: np.ndarray) -> "Figure":
    """Draw the shares of variance along principal axes, of class means and within classes."""
    figure, axes = style.panels(2, 2, 5.5, 3.4, margin=0.8)
    values = np.linalg.svd(means - means.mean(axis=0), compute_uv=False)[: len(means) - 1] ** 2
    shares = values / (values.sum() or 1)
    axes[0].plot(np.arange(1, len(shares) + 1), shares, "o-", markersize=3, label="class means")
    axes[0].axhline(1 / max(len(shares), 1), color="gray", linestyle="--", label="all alike")
    axes[0].set_title("between class means", fontsize=10.5)
    axes[0].set(ylim=(0, None))
    axes[0].legend(frameon=False, fontsize=9)
    axes[1].plot(np.arange(1, len(within) + 1), within, "o-", markersize=3)
    axes[1].set_title("within classes, mean", fontsize=10.5)
    axes[1].set(ylim=(0, None))
    for axis in axes:
        axis.set(xlabel="principal axis", ylabel="share of the variance")
        axis.grid(alpha=0.25)
    return figure


def map_figure(
    points: np.ndarray, labels: np.ndarray, means: np.ndarray, names: Sequence[str]
) -> "Figure":
    """Draw the directions of points [P, D] along the two main axes of the class means [K, D]."""
    plt, _ = style.matplotlib()
    directions = unit(means.astype(np.float64))
    centre = directions.mean(axis=0)
    _, sizes, axes = np.linalg.svd(directions - centre, full_matrices=False)
    axes = np.pad(axes, ((0, 2), (0, 0)))[:2]
    shown = np.sum(sizes[:2] ** 2) / (np.sum(sizes**2) or 1)
    figure, (axis,) = style.panels(1, 1, 7.6, 5.2, margin=0.8)
    places = (unit(points.astype(np.float64)) - centre) @ axes.T
    corners = (directions - centre) @ axes.T
    palette = plt.get_cmap("tab20" if len(names) <= 20 else "nipy_spectral")
    colors = palette(np.arange(len(names)) / max(len(names) - 1, 1))
    axis.scatter(*places.T, c=colors[labels], s=6, alpha=0.5, linewidths=0)
    axis.scatter(*corners.T, c=colors, s=60, edgecolors="black")
    axis.set_title(
        f"directions of features along the two main axes of the class means\n(which show "
        f"{100 * shown:.0f} % of their variance); class means large",
        fontsize=10.5,
    )
    axis.set_aspect("equal", adjustable="datalim")
    if len(names) <= MOST_NAMES:
        short = style.class_names(names, 16)
        handles = [
            style.handle(style.escape_dollars(name), color=color, marker="o", linestyle="none")
            for name, color in zip(short, colors, strict=True)
        ]
        figure.legend(handles=handles, loc="outside right upper", frameon=False)
    return figure
