"""What commands measure of a run, `probe.json`, `transfer.json`, ...: written and read here."""

import os
from typing import Any

from hsproto.runs import reading
from hsproto.runs.files import to_json, write_text
from hsproto.runs.reading import FLAG, LABEL, MEASURE, NUMBER, SOME_NUMBERS, TEXT, WHOLE, Object

_MEASURES = Object(others=MEASURE)
_PROBE = Object({"passes": MEASURE, "seconds": MEASURE, "test": _MEASURES, "train": _MEASURES})
_TRANSFER = Object(
    {
        "protocol": Object({"step": WHOLE}),
        "train_images": WHOLE,
        "test_images": WHOLE,
        "penalty": NUMBER,
        "penalties": SOME_NUMBERS,
        "converged": FLAG,
        **dict.fromkeys(("accuracy", "accuracy_per_class", "average_precision"), MEASURE),
    }
)
_ROBUSTNESS = Object(
    {
        "step": WHOLE,
        "layout": TEXT,
        "generated": FLAG,
        "counted": WHOLE,
        "errors": Object(others=SOME_NUMBERS),
        **dict.fromkeys(("clean_error", "mean_error", "mce"), MEASURE),
    }
)
_CALIBRATED = Object({"ece": MEASURE, "nll": MEASURE})
# The commands, whose file is COMMAND.json, and what that holds.
_SCHEMAS = {
    "probe": Object(
        {"step": WHOLE, **dict.fromkeys(("fp", "lp", "nlp", "cached_lp"), _PROBE)},
    ),
    "transfer": Object({"datasets": Object(others=_TRANSFER)}),
    "robustness": Object(others=_ROBUSTNESS),
    "ood": Object({"step": WHOLE, "k": LABEL, "others": Object(others=Object(others=_MEASURES))}),
    "calibration": Object(
        {
            "step": WHOLE,
            "bins": LABEL,
            "fit_share": LABEL,
            "accuracy": MEASURE,
            "fitted_temperature": MEASURE,
            "before": _CALIBRATED,
            "after": _CALIBRATED,
        }
    ),
    "retrieval": Object(
        {
            "step": WHOLE,
            **dict.fromkeys(("labels", "features", "images"), LABEL),
            **dict.fromkeys(("map@r", *(f"recall@{k}" for k in (1, 2, 4, 8))), MEASURE),
        }
    ),
}
COMMANDS = tuple(_SCHEMAS)


def write(workdir: str, command: str, values: dict) -> None:
    """Write what `command`, one of COMMANDS, has measured."""
    write_text(path(workdir, command), to_json(values, indent=1))


def read(workdir: str, command: str) -> dict[str, Any] | None:
    """Return what `command` has measured, or None if it has not been run.

    Raises:
        Unreadable: The file is damaged or cannot be opened.
    """
    file = path(workdir, command)
    if not os.path.lexists(file):
        return None
    try:
        return reading.read_json(file, _SCHEMAS[command])
    except reading.Unreadable as error:
        raise reading.Unreadable(f"{error}: remove it, and measure again") from None


def path(workdir: str, command: str) -> str:
    """Return the path of what `command` has measured."""
    return os.path.join(workdir, f"{command}.json")
