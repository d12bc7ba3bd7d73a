"""Reading the text of a compiled program: computations, arrays, operations."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_WIDTHS |= {"s64": 8, "u64": 8, "f64": 8}
Array = tuple[str, tuple[int, ...]]  # dtype, shape

# What moves no array through memory, or is counted where it starts.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota")


class Operation(NamedTuple):
    """An operation: its opcode, the arrays it results in, the names of its arguments, its line."""

    opcode: str
    arrays: list[Array]
    arguments: list[str]
    line: str

    @property
    def op_name(self) -> str:
        """Where it stands in the program that JAX traced; "" if the compiler made it."""
        name = re.search(r'op_name="([^"]*)"', self.line)
        return name[1] if name else ""

    @property
    def size(self) -> int:
        """Bytes of its results."""
        return sum(map(array_bytes, self.arrays))


def array_bytes(array: Array) -> int:
    """Return the bytes of an array, without a layout's padding."""
    dtype, shape = array
    return _WIDTHS.get(dtype, 4) * math.prod(shape)


def computations(text: str) -> dict[str, dict[str, Operation]]:
    """Return {name: {name of an operation: operation}}; the entry computation's name is ""."""
    found, name = {}, None
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = "" if head[1] else head[2]
            found[name] = {}
        elif name is not None:
            found[name].update(_operations(line))
    return found


def _operations(line) -> Iterator[tuple[str, Operation]]:
    match = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$", line)
    if match:
        arguments = match[4].split("), ")[0]
        yield (
            match[1],
            Operation(match[3], _arrays(match[2]), re.findall(r"%([\w.\-]+)", arguments), line),
        )


def _arrays(text) -> list[Array]:
    return [
        (dtype, tuple(int(side) for side in sides.split(",") if side))
        for dtype, sides in re.findall(r"\b([a-z]+\d+|pred)\[([\d,]*)\]", text)
    ]


def traffic(text: str) -> float:
    """Return the bytes that a program's operations read and write, each its arguments and results.

    For compilers that do not count themselves, and programs without loops. What an operation reads
    only in part, or finds in a cache, is counted as a whole.
    """
    entry = computations(text)[""]
    moved = 0
    for operation in entry.values():
        if operation.opcode in _FREE or operation.opcode.endswith("-done"):
            continue
        read = (entry[name].size for name in operation.arguments if name in entry)
        moved += operation.size + sum(read)
    return moved
