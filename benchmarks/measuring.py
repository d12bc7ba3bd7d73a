"""What the benchmarks share: times taken in turns, bytes that devices exchange, machine, tables."""

import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import sys
import time
from typing import NamedTuple

import jax

_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_WIDTHS |= {"s64": 8, "u64": 8, "f64": 8}
_KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
# Of what a device sends where the arrays go round a ring, the share of the whole array.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}


class Collective(NamedTuple):
    """An array that devices exchange `times` a call; `size` is the bytes of the array as a whole.

    That is the sum of an all-reduce, what an all-gather ends with, what a reduce-scatter starts
    from, and of a permutation what each device passes on. Arrays that travel together have the same
    `operation`.
    """

    operation: int
    kind: str
    dtype: str
    shape: tuple
    size: int
    times: int

    def sent(self, devices):
        """Bytes that a device sends in all calls, by the usual ring algorithms."""
        return self.times * self.size * _SENT[self.kind](devices)


def collectives(compiled, devices):
    """[Collective] of a program compiled for a mesh of `devices`, read from its HLO.

    What stands in a loop counts as often as the loop runs. For CPU devices; raises ValueError where
    the program does not say what is asked.
    """
    callers, inside, found = {}, None, []
    for number, line in enumerate(compiled.as_text().splitlines()):
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            inside = head[1]
        for callee in re.findall(r"(?:body|calls|to_apply)=%?([\w.\-]+)", line):
            times = 1
            if " while(" in line:
                count = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                times = int(count[1]) if count else None
            callers[callee] = inside, times
        if match := re.search(rf"= (.*?) ({_KINDS})(-start)?\(", line):
            if match[3]:  # whose results hold their arguments too
                raise ValueError("asynchronous collectives; compile for CPU devices")
            for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", match[1]):
                shape = tuple(int(side) for side in dims.split(",") if side)
                found.append((number, inside, match[2], dtype, shape))

    def times_run(computation):
        times = 1
        while computation in callers:
            computation, runs = callers[computation]
            if runs is None:
                raise ValueError("a collective stands in a loop of unknown length")
            times *= runs
        return times

    return [
        Collective(
            number,
            kind,
            dtype,
            shape,
            _WIDTHS[dtype] * math.prod(shape) * (devices if kind == "reduce-scatter" else 1),
            times_run(inside),
        )
        for number, inside, kind, dtype, shape in found
    ]


def exchanged(found):
    """Bytes of the arrays in a list of collectives, in all their calls."""
    return sum(c.times * c.size for c in found)


def sizes(found):
    """The bytes of each single operation, arrays that travel together in one sum."""
    together = {}
    for c in found:
        together.setdefault(c.operation, [0, c.times])[0] += c.size
    return [size for size, times in together.values() for _ in range(times)]


def in_turns(calls, rounds, slow_rounds=None, slow=0.5):
    """{key: seconds a call, one for each round} of {key: call}; a call returns when it is done.

    All take turns, so that a busy machine slows what is compared alike. Short calls are repeated to
    fill 0.1 s; those of more than `slow` seconds take part in `slow_rounds` rounds only. Of a
    process that may use one core alone (`taskset -c 0`) it is the CPU seconds, in which what other
    programs take of that core is not counted.
    """
    clock = time.process_time if len(os.sched_getaffinity(0)) == 1 else time.perf_counter

    def seconds(call, repeats):
        start = clock()
        for _ in range(repeats):
            call()
        return (clock() - start) / repeats

    once, repeats, taken = {}, {}, {}
    for key, call in calls.items():
        call()
        once[key] = seconds(call, 1)
        repeats[key] = max(1, min(50, int(0.1 / once[key])))
        taken[key] = min(rounds, slow_rounds or rounds) if once[key] > slow else rounds
    times = {key: [] for key in calls}
    for turn in range(rounds):
        for key, call in calls.items():
            if turn < taken[key]:
                if once[key] < 5:
                    call()  # what ran before has emptied the caches and given back its memory
                times[key].append(seconds(call, repeats[key]))
    return times


def ratio(times, over, under):
    """Median of the ratio of two keys' times, round by round."""
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=False))


def processor():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine():
    return f"{processor()}, {os.cpu_count()} cores"


def environment(*packages):
    """Command, machine and versions of this run; packages that are not there are null."""

    def version(package):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "devices": [d.device_kind for d in jax.devices()],
        },
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("jax", "jaxlib", *packages)},
        },
    }


def table(rows):
    """The lines of a list of dicts with the same keys as a Markdown table; None is a dash."""

    def cell(value):
        if value is None:
            return "-"
        if isinstance(value, float):
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    cells = [list(rows[0])] + [[cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def show(rows):
    """Print that table."""
    print("\n".join(table(rows)))


def write(path, report):
    if path:
        with open(path, "w") as file:
            json.dump(report, file, indent=1)
