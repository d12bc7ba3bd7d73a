"""What all processes of a run must have in common: they compare it before the first step."""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import hsproto
from hsproto.errors import UserError
from hsproto.parallel.store import Store

_SHOWN = 3  # differences that the message names
_LENGTH = 60  # of a value in it


def compare(store: Store, index: int, count: int, items: Mapping[str, Any]) -> None:
    """Raise the same UserError in all processes unless `items` are equal in all of them.

    Args:
        store: Where the processes meet.
        index: The number of this process.
        count: How many there are.
        items: What to compare: values that JSON can hold, by names under which no others were
            compared before.

    Raises:
        UserError: With what differs, in which processes, and both values.
    """
    values = flatten(items)
    text = json.dumps(values, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    name = ",".join(items)
    if _decide(store, index, count, f"agree/{name}/digest", digest, _are_equal) == "yes":
        return
    # Only now the values themselves, which may be long.
    raise UserError(_decide(store, index, count, f"agree/{name}/values", text, _differences))


def _decide(store, index, count, key, text, decide):
    """What process 0 decides on the texts of all processes."""
    if index == 0:
        others = [store.wait(f"{key}/{i}") for i in range(1, count)]
        store.put(f"{key}/decision", decide([text, *others]))
    else:
        store.put(f"{key}/{index}", text)
    return store.wait(f"{key}/decision")


def _are_equal(texts):
    return "yes" if len(set(texts)) == 1 else "no"


def _differences(texts):
    expected, *others = map(json.loads, texts)
    found = {}
    for process, values in enumerate(others, start=1):
        for key in sorted({*expected, *values}):
            if values.get(key) != expected.get(key) and key not in found:
                here, there = _shown(expected.get(key, "none"), values.get(key, "none"))
                found[key] = f"{key} is {here} in process 0, {there} in process {process}"
    told = list(found.values())
    more = f", and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return (
        f"the processes of one run differ: {'; '.join(told[:_SHOWN])}{more}: "
        "start all of them with the same command, code and data"
    )


def flatten(items: Mapping[str, Any]) -> dict[str, str]:
    """Return nested values as texts, by keys like a.b."""
    flat = {}
    for key, value in items.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": text for inner, text in flatten(value).items()}
        else:
            flat[str(key)] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _shown(*texts):
    """Two texts that differ, cut to where they do."""
    same = len(os.path.commonprefix(texts))
    start = max(0, same - _LENGTH // 2) if max(map(len, texts)) > _LENGTH else 0
    for text in texts:
        part = text[start : start + _LENGTH]
        yield f"{'...' * (start > 0)}{part}{'...' * (start + _LENGTH < len(text))}"


@functools.cache
def code_digests() -> dict[str, str]:
    """Return digests of hsproto's own files, by path."""
    root = pathlib.Path(hsproto.__path__[0])
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in sorted(root.rglob("*.py"))
    }
