"""Runs that a report of many cannot read: they are named with the reason, and the others shown."""

from collections.abc import Mapping, Sized

from hsproto.errors import UserError
from hsproto.reporting.table import Table


def remarks(left_out: Mapping[str, str]) -> list[str]:
    """Return a line for each run of {name: reason}."""
    return [f"Left out: {name}. {reason}." for name, reason in left_out.items()]


def table(left_out: Mapping[str, str]) -> Table:
    """Return the table of the runs of {name: reason}."""
    rows = [((name,), (reason,)) for name, reason in left_out.items()]
    return Table("left_out", "Runs that cannot be read", "", ("run",), ("reason",), rows)


def check_some(shown: Sized, left_out: Mapping[str, str]) -> None:
    """Raise UserError where no run is shown."""
    if not shown:
        raise UserError(f"no run can be read: {'; '.join(left_out.values())}")
