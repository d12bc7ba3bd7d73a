"""What commands measure of a run, `probe.json`, `transfer.json`, ...: written and read here."""

import os

from hsproto.runs.files import check_all, is_number, read_json, to_json, write_text

# The commands, whose file is COMMAND.json, each with the places in it that hold objects and those
# that hold numbers; * is any key.
_OBJECTS = {
    "probe": [f"{m}{part}" for m in ("fp", "lp", "nlp", "cached_lp")
              for part in ("", "/test", "/train")],
    "transfer": ["datasets", "datasets/*", "datasets/*/protocol"],
    "robustness": ["*"],
    "ood": ["others", "others/*", "others/*/max_cosine", "others/*/energy", "others/*/knn"],
    "calibration": ["before", "after"],
    "retrieval": ["test"],
}  # fmt: skip
_NUMBERS = {
    "probe": [
        "step", *(f"*/{key}" for key in ("passes", "seconds")), "*/test/accuracy", "*/train/*",
    ],
    "transfer": [
        f"datasets/*/{key}"
        for key in ("protocol/step", "accuracy", "average_precision", "accuracy_per_class")
    ],
    "robustness": [f"*/{key}" for key in ("step", "clean_error", "mean_error", "mce")],
    "ood": ["step", "others/*/*/auroc", "others/*/*/fpr95"],
    "calibration": [
        "step", "accuracy", "fitted_temperature",
        *(f"{part}/{key}" for part in ("before", "after") for key in ("ece", "nll")),
    ],
    "retrieval": [
        f"{part}{key}"
        for part in ("", "test/")
        for key in ("step", "map@r", *(f"recall@{k}" for k in (1, 2, 4, 8)))
    ],
}  # fmt: skip
COMMANDS = tuple(_OBJECTS)


def write(workdir: str, command: str, values: dict) -> None:
    """Write what `command`, one of COMMANDS, has measured."""
    write_text(path(workdir, command), to_json(values, indent=1))


def read(workdir: str, command: str) -> dict | None:
    """Return what `command` has measured, or None if it has not been run.

    Raises:
        UserError: If the file is damaged.
    """
    file = path(workdir, command)
    if not os.path.isfile(file):
        return None
    values = read_json(file)
    for place in _OBJECTS[command]:
        check_all(file, values, place, lambda value: isinstance(value, dict))
    for place in _NUMBERS[command]:
        check_all(file, values, place, lambda value: value is None or is_number(value))
    return values


def path(workdir: str, command: str) -> str:
    """Return the path of what `command` has measured."""
    return os.path.join(workdir, f"{command}.json")
