"""What the records of a study hold already, so that it need not be run again."""

import json
import pathlib
from typing import Any

import protocol
from jobs import usage

NOT_RECORDED = ("seed", "snapshot_points")  # among a run's values


def _key(cell):
    return cell.study, cell.head, cell.set, cell.method, cell.variant, cell.number


def check(cell: protocol.Cell, values: dict[str, str]) -> None:
    """Exit if the values with which a cell is recorded are no longer the protocol's."""
    wanted = cell.values if cell.study else protocol.drawn(cell.head, cell.method, cell.number)
    for name in sorted(set(wanted) | set(values)):
        before, now = values.get(name), wanted.get(name)
        if before != now and name not in NOT_RECORDED:
            raise SystemExit(usage(f"{cell.name} is recorded with {name}={before}, not {now}"))


class Recorded:
    """The trials and runs in the files that `results.py --collect` has written to a folder."""

    def __init__(self, folder: pathlib.Path | None):
        self._found: dict[tuple, dict[str, Any]] = {}
        for path in [folder / f"{regime}.json" for regime in protocol.REGIMES] if folder else []:
            if not path.exists():
                continue
            stored = json.loads(path.read_text())
            for row in stored["trials"]:
                key = "", row["head"], row["set"], row["method"], "", row["trial"]
                self._found[key] = row
            for row in stored["runs"]:
                key = [row[name] for name in ("study", "head", "set", "method", "variant", "seed")]
                self._found[tuple(key)] = row

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, cell: protocol.Cell) -> bool:
        """Return whether a cell is recorded; exit if it is with other values."""
        if (row := self._found.get(_key(cell))) is None:
            return False
        check(cell, row["values"])
        return True

    def held_out(self, cell: protocol.Cell) -> float | None:
        """Return the accuracy of a recorded trial on held-out rows, None if it diverged."""
        return self._found[_key(cell)]["held_out"]
