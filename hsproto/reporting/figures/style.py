"""What all pictures share: names and legends of losses, panels, axes, and files."""

import functools
import math
import os
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hsproto.errors import visible
from hsproto.methods import method_of
from hsproto.runs.files import write_atomically
from hsproto.runs.run import Run

if TYPE_CHECKING:  # matplotlib is imported where it is used, see `matplotlib`
    from matplotlib.figure import Figure


def title_of(loss: str) -> str:
    """Return the title of a loss, as matplotlib draws it."""
    return escape_dollars(method_of(loss).title)


def escape_dollars(text: object) -> str:
    """Return text from outside such that matplotlib does not read a dollar as a formula."""
    return visible(text).replace("$", r"\$")


def class_names(names: Iterable[object], length: int) -> list[str]:
    """Return names as a picture can show them with `parse_math=False`: cut to a length, visible."""
    shown = map(visible, names)
    return [name if len(name) <= length else f"{name[: length - 1]}…" for name in shown]


def matplotlib() -> tuple[Any, Any]:
    """Return (pyplot, colors), on a backend that needs no screen."""
    # Imported here, so that training pays for it at the end rather than the start.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colors, pyplot

    return pyplot, colors


def panels(
    count: int,
    columns: int,
    width: float,
    height: float,
    margin: float = 1.0,
    layout: str = "constrained",
    **kwargs: Any,
) -> tuple["Figure", list]:
    """Return a figure and its `count` axes in rows of at most `columns`.

    Args:
        count: The number of panels.
        columns: The largest number of panels in a row.
        width: The width of a panel in inches.
        height: The height of a panel in inches.
        margin: The height of what stands above and below all panels.
        layout: "compressed" for panels with a fixed aspect ratio.
        **kwargs: As of `pyplot.subplots`.
    """
    rows = math.ceil(count / columns)
    columns = math.ceil(count / rows)
    size = (width * columns, height * rows + margin)
    figure, axes = matplotlib()[0].subplots(
        rows, columns, figsize=size, squeeze=False, layout=layout, **kwargs
    )
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, list(axes.flat[:count])


def title(figure: "Figure", lines: Iterable[str]) -> None:
    """Give a figure a title of lines of text from outside, wrapped to its width."""
    letters = int(13 * figure.get_figwidth())
    lines = [part for line in lines for part in textwrap.wrap(line, letters)]
    figure.suptitle("\n".join(map(escape_dollars, lines)), fontsize=11)


def handle(name: str, **style: Any) -> Any:
    """Return a legend's entry: a line of such a style."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=name, **style)


def loss_handles(by_loss: Mapping[str, Sequence[Run]]) -> list:
    """Return the legend's entries of losses, with the number of seeds."""
    handles = []
    for loss, runs in by_loss.items():
        method, name = method_of(loss), title_of(loss)
        seeds = len({run.config.get("seed") for run in runs})
        running = sum(run.summary is None for run in runs)
        name += f", {seeds} seed{'s' if seeds > 1 else ''}"
        name += f" ({running} unfinished)" if running else ""
        handles.append(handle(name, color=method.color, marker=method.marker))
    return handles


def legend(figure: "Figure", handles: Sequence) -> None:
    """Draw one legend for all panels below them, where it covers nothing."""
    columns = math.ceil(len(handles) / math.ceil(len(handles) / 5))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def log_scale(axis: Any) -> None:
    """Make the vertical axis logarithmic, with at least two ticks and without powers of ten."""
    from matplotlib import ticker

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    few = high / low < 30
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5) if few else range(2, 10)))
    axis.yaxis.set_minor_formatter("{x:g}" if few else ticker.NullFormatter())


def save(figure: "Figure", paths: Iterable[str | os.PathLike]) -> None:
    """Write the figure to each path in the format of its ending, and close it.

    The same figure gives the same bytes: no date, and names inside an SVG from a fixed seed.
    """
    plt, _ = matplotlib()
    with warnings.catch_warnings(), plt.rc_context({"svg.hashsalt": "hsproto"}):
        # Class names in scripts that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        for path in paths:
            kind = os.path.splitext(path)[1].removeprefix(".")
            metadata = {"Date": None} if kind == "svg" else None
            draw = functools.partial(figure.savefig, format=kind, dpi=110, metadata=metadata)
            write_atomically(path, draw)
            # Computing the layout takes most of the time; the first file's serves all.
            figure.set_layout_engine("none")
    plt.close(figure)
