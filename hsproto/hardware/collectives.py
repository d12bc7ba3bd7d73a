"""What chips exchange in a compiled program, read from its text: kind, bytes, and what for."""

import collections
import functools
import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from hsproto.hardware import hlo

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
GRADIENTS, BATCH_NORM, LOSS, OTHER = "gradients", "BatchNorm", "loss", "other"
# Of an array of n chips, the share that each sends where the arrays go round a ring.
_SENT = {"all-reduce": 2.0, "collective-permute": 1.0}


class Collective(NamedTuple):
    """An operation that a program does `times`; `size` is the bytes of its arrays as a whole.

    That is the sum of an all-reduce, what an all-gather ends with, what a reduce-scatter starts
    from, and of a permutation what each chip passes on. `arrays` are its results.
    """

    kind: str
    part: str
    size: int
    times: int = 1
    arrays: tuple[hlo.Array, ...] = ()

    def sent(self, chips: int) -> float:
        """Bytes that a chip sends at least, by the usual ring algorithms."""
        share = 1.0 if self.kind == "collective-permute" else (chips - 1) / chips
        return self.times * self.size * share * _SENT.get(self.kind, 1.0)


def read(text: str, chips: int, parameters: Iterable[tuple[int, ...]] = ()) -> list[Collective]:
    """Return the collectives of a compiled program.

    Args:
        text: `compiled.as_text()`, of any of XLA's compilers.
        chips: How many the program is for.
        parameters: Shapes of the model's parameters, by which sums of gradients are known.
    """
    parameters = {tuple(shape) for shape in parameters if len(shape) > 1}
    computations = hlo.computations(text)
    runs = _runs(computations)
    found = []
    for name, operations in computations.items():
        for operation in operations.values():
            kind = operation.opcode.removesuffix("-start")
            if kind not in KINDS or not runs(name):
                continue
            arrays = operation.arrays
            if kind != operation.opcode != "all-reduce-start":  # which gives the arguments too
                given = len(operation.arguments)
                arrays = arrays[given : 2 * given]
            size = sum(map(hlo.array_bytes, arrays)) * (chips if kind == "reduce-scatter" else 1)
            part = _part(kind, _origins(operation, operations), arrays, parameters)
            found.append(Collective(kind, part, size, runs(name), tuple(arrays)))
    return found


def table(found: list[Collective], chips: int) -> list[dict]:
    """Return rows of {"kind", "part", "count", "bytes", "sent"}, summed over equal operations."""
    rows = collections.defaultdict(lambda: [0, 0, 0.0])
    for each in found:
        row = rows[each.kind, each.part]
        row[0] += each.times
        row[1] += each.times * each.size
        row[2] += each.sent(chips)
    return [
        {"kind": kind, "part": part, "count": count, "bytes": size, "sent": sent}
        for (kind, part), (count, size, sent) in sorted(rows.items(), key=lambda row: -row[1][1])
    ]


def _part(kind, origins, arrays, parameters):
    """What an operation is for. A compiler joins sums, and may keep the name of one of them."""
    backward = any("transpose(" in name for name in origins)
    if backward and parameters.intersection(shape for _, shape in arrays):
        return GRADIENTS
    # Joined sums may have the name of another, or lose their shapes. The loss sums numbers per
    # class; what is as large as prototypes is, or holds, their gradient. What it gathers or
    # scatters, as a compiler may by a sum over all rows, has rows.
    if kind == "all-reduce" and any(_holds_gradient(array, parameters) for array in arrays):
        return GRADIENTS
    # A weight's gradient is a product or a convolution.
    if any(re.search(r"transpose\(.*/(conv_general_dilated|dot_general)", n) for n in origins):
        return GRADIENTS
    if any("shard_map" in name for name in origins):  # in which the loss alone is computed
        return LOSS
    # Sums over rows of a normalization's slopes are the gradients of its scale and bias too.
    if any(re.search(r"/\w*(?:bn|norm)\w*/", name) for name in origins):
        return BATCH_NORM
    return GRADIENTS if backward else OTHER


def _holds_gradient(array, parameters):
    dtype, shape = array
    if len(shape) > 1:
        return _sides(shape) in map(_sides, parameters)
    smallest = min((math.prod(each) for each in parameters if len(each) == 2), default=math.inf)
    return dtype in ("f32", "bf16") and math.prod(shape) >= smallest


def _sides(shape):
    return sorted(side for side in shape if side > 1)


def _origins(operation, operations, depth=6):
    """Where in the traced program an operation, or else what it is computed from, stands."""
    if operation.op_name or not depth:
        return {operation.op_name}
    origins = set()
    for name in operation.arguments:
        if name in operations:
            origins |= _origins(operations[name], operations, depth - 1)
    return origins


def _runs(computations):
    """f(name): how often a computation runs in one call of the program; 0: never."""
    calls = collections.defaultdict(list)
    for caller, operations in computations.items():
        for operation in operations.values():
            callees = re.findall(r"(?:body|calls|to_apply)=%?([\w.\-]+)", operation.line)
            times = _trips(operation, computations) if operation.opcode == "while" else 1
            for callee in callees:
                calls[callee].append((caller, times))

    @functools.cache
    def runs(name):
        if not name:
            return 1
        # A computation that several fusions share is written once and called by each.
        return sum(runs(caller) * times for caller, times in calls[name])

    return runs


def _trips(loop, computations):
    """How often a loop runs: as the compiler notes it, or as its condition compares."""
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.line):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.line)
    operations = computations.get(condition[1], {}) if condition else {}
    constants = (
        re.search(r"constant\((\d+)\)", operation.line)
        for operation in operations.values()
        if operation.opcode == "constant" and operation.arrays == [("s32", ())]
    )
    return max((int(found[1]) for found in constants if found), default=1)
