"""Damage to the files of a workdir: JSON with other values, and bytes cut, flipped and replaced."""

import copy
import json
import random

DEEP = "[" * 100_000 + "]" * 100_000
# As text, since some of it is no JSON.
VALUES = ("null", "true", "-1", "0", "1e308", "1e999", "NaN", "9" * 5000, str(2**62), '"text"',
          "[]", "[1]", "[[1]]", "{}", '{"a": {"b": []}}', DEEP)  # fmt: skip


def places(value, path=()):
    """The paths to all values inside a JSON value, its own among them."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value[:2]) if isinstance(value, list) else items
    for key, each in items:
        yield from places(each, (*path, key))


def _parent(value, path):
    for key in path[:-1]:
        value = value[key]
    return value


def of_json(text, values=VALUES, share=3):
    """Yield (name, text): a value of a JSON text taken away, or others in its place.

    Each place gets one in `share` of the values, all places together get all.
    """
    whole = json.loads(text)
    for number, path in enumerate(places(whole)):
        name = "/".join(map(str, path))
        for new in values[number % share :: share]:
            changed = copy.deepcopy(whole) if path else "MARK"
            if path:
                _parent(changed, path)[path[-1]] = "MARK"
            yield f"{name}={new[:20]}", json.dumps(changed).replace('"MARK"', new)
        if path and isinstance(path[-1], str):
            changed = copy.deepcopy(whole)
            del _parent(changed, path)[path[-1]]
            yield f"without {name}", json.dumps(changed)
    if isinstance(whole, dict):
        yield "another key", json.dumps(whole | {"of_tomorrow": 1})


def of_bytes(content, count, seed=0):
    """Yield (name, bytes): content cut, with bits flipped, empty, or something else."""
    draw = random.Random(seed)
    for size in {0, 1, len(content) // 2, len(content) - 1}:
        yield f"cut to {size}", content[:size]
    yield "garbage", bytes(draw.randrange(256) for _ in range(300))
    for _ in range(count):
        place = draw.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        yield f"bit of byte {place}", bytes(changed)
