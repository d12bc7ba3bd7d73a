"""data.json: the fingerprint of the data that a run was trained on, written and read here."""

import os
from typing import Any

from hsproto.runs.files import to_json, write_text
from hsproto.runs.reading import Object, damaged, is_type, read_json

NAME = "data.json"


def write(workdir: str, fingerprint: dict[str, Any]) -> None:
    write_text(os.path.join(workdir, NAME), to_json(fingerprint))


def read(workdir: str) -> dict[str, Any] | None:
    """Return the fingerprint (`data.fingerprint`) of a run's data; None if it did not keep it.

    Raises:
        Unreadable: If the file is damaged.
    """
    path = os.path.join(workdir, NAME)
    if not os.path.isfile(path):
        return None
    content = read_json(path, Object())
    if not is_fingerprint(content):
        raise damaged(path, "it describes no data: remove it")
    return content


def is_fingerprint(value: Any) -> bool:
    """Return whether a value from a file has the form of a fingerprint."""
    if not is_type(value, dict) or not _is_list_of(value.get("class_names"), str):
        return False
    classes = len(value["class_names"])
    return all(_is_split(value.get(split), classes) for split in ("train", "test"))


def _is_split(value, classes):
    if not is_type(value, dict) or not is_type(value.get("images"), int):
        return False
    counts = value.get("per_class")
    counted = counts is None or (_is_list_of(counts, int) and len(counts) == classes)
    return counted and is_type(value.get("digest"), str)


def _is_list_of(value, kind):
    return isinstance(value, list) and all(is_type(each, kind) for each in value)
