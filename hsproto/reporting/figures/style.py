"""What all pictures share: how a loss looks, how panels are laid out, and the files they become."""

import math
import os
import textwrap
import warnings

from hsproto.methods import method_of


def title_of(loss):
    """Return the title of a loss, as matplotlib draws it."""
    return escape_dollars(method_of(loss).title)


def escape_dollars(text):
    """Return text from outside such that matplotlib does not read a dollar as a formula."""
    return str(text).replace("$", r"\$")


def matplotlib():
    """(pyplot, colors), on a backend that needs no screen."""
    # Here rather than above, so that training pays for its import at the end and not the start.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colors, pyplot

    return pyplot, colors


def panels(count, columns, width, height, margin=1.0, layout="constrained", **kwargs):
    """(figure, `count` axes) in rows of at most `columns`; sizes in inches.

    height: of a panel; margin: of what stands above and below all of them. layout: "compressed" of
    panels that have a shape of their own.
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


def title(figure, lines):
    """A title of lines of text from outside, broken where they are wider than the figure."""
    letters = int(13 * figure.get_figwidth())
    lines = [part for line in lines for part in textwrap.wrap(line, letters)]
    figure.suptitle(escape_dollars("\n".join(lines)), fontsize=11)


def handle(name, **style):
    """A legend's entry: a line of such a style."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=name, **style)


def loss_handles(by_loss):
    """The legend's entries of {loss: [Run]}, with the number of seeds."""
    handles = []
    for loss, runs in by_loss.items():
        method, name = method_of(loss), title_of(loss)
        seeds = len({run.config.get("seed") for run in runs})
        running = sum(run.summary is None for run in runs)
        name += f", {seeds} seed{'s' if seeds > 1 else ''}"
        name += f" ({running} unfinished)" if running else ""
        handles.append(handle(name, color=method.color, marker=method.marker))
    return handles


def legend(figure, handles):
    """One legend for all panels, below them, where it can cover nothing."""
    columns = math.ceil(len(handles) / math.ceil(len(handles) / 5))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def log_scale(axis):
    """A vertical log axis whose ticks are numbers in full, two of them at least."""
    from matplotlib import ticker

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    few = high / low < 30
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5) if few else range(2, 10)))
    axis.yaxis.set_minor_formatter("{x:g}" if few else ticker.NullFormatter())


def save(figure, paths):
    """Writes the figure as each of `paths`, by its ending, and closes it.

    The same figure gives the same bytes: no date, and the names inside an SVG come from a fixed
    seed.
    """
    plt, _ = matplotlib()
    with warnings.catch_warnings(), plt.rc_context({"svg.hashsalt": "hsproto"}):
        # Class names in scripts that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        for path in paths:
            dated = os.fspath(path).endswith(".svg")
            metadata = {"Date": None} if dated else None
            figure.savefig(path, dpi=110, metadata=metadata)
            # The layout is that of the first file, as it takes most of the time.
            figure.set_layout_engine("none")
    plt.close(figure)
