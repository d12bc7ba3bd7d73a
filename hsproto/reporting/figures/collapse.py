"""A picture of what trials and runs of a study achieve against how far they have collapsed."""

from typing import TYPE_CHECKING

from hsproto.methods import method_of
from hsproto.reporting.claims import collapse
from hsproto.reporting.claims.records import Records
from hsproto.reporting.figures import style

if TYPE_CHECKING:  # matplotlib is imported where it is used, see style.matplotlib
    from matplotlib.figure import Figure

_PANEL = 3.1, 2.7  # inches


def figure(records: Records) -> "Figure | None":
    """Draw outcomes over NC1 of the rows trained on, a panel per set and outcome; None of nothing.

    The larger a marker, the higher the accuracy on the rows trained on. Further methods of a loss
    have hollow markers.
    """
    measured = {name: dict(collapse.points(records, name)) for name in collapse.OUTCOMES}
    measured = {outcome: by_set for outcome, by_set in measured.items() if by_set}
    sets = list(dict.fromkeys(dataset for by_set in measured.values() for dataset in by_set))
    if not sets:
        return None
    style.matplotlib()
    panels = [(dataset, outcome) for outcome in measured for dataset in sets]
    columns = len(sets) if len(sets) > 1 else 3
    drawn, axes = style.panels(len(panels), columns, *_PANEL, margin=1.1)
    for axis, (dataset, outcome) in zip(axes, panels, strict=True):
        found = measured[outcome].get(dataset)
        if found is None:
            axis.set_axis_off()
            continue
        spread = found.fitted.max() - found.fitted.min() or 1.0
        for name in dict.fromkeys(found.methods):
            own = [i for i, other in enumerate(found.methods) if other == name]
            look = _look(records, name)
            axis.scatter(
                -found.collapse[own], 100 * found.outcome[own],
                s=12 + 50 * (found.fitted[own] - found.fitted.min()) / spread,
                facecolors=look["markerfacecolor"], edgecolors=look["color"],
                marker=look["marker"], linewidths=0.9, alpha=0.75,
            )  # fmt: skip
        title = f"{style.escape_dollars(dataset)}\n{collapse.OUTCOMES[outcome]}"
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("log NC1 of the training rows (left: collapsed)", fontsize=8)
        axis.set_ylabel("%", fontsize=8)
        axis.tick_params(labelsize=8)
    handles = [
        style.handle(style.escape_dollars(method.title), linestyle="", **_look(records, name))
        for name, method in records.methods.items()
        if any(name in found.methods for by_set in measured.values() for found in by_set.values())
    ]
    style.legend(drawn, handles)
    style.title(drawn, ["Collapse and what it brings; larger: higher accuracy on training rows"])
    return drawn


def _look(records, name):
    method = method_of(records.methods[name].loss)
    others = list(records.methods.values())
    first = next(i for i, other in enumerate(others) if other.loss == records.methods[name].loss)
    is_first = list(records.methods)[first] == name
    return {
        "color": method.color,
        "marker": method.marker,
        "markerfacecolor": method.color if is_first else "none",
    }
