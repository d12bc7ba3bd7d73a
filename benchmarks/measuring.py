"""What the benchmarks share: times taken in turns, bytes exchanged, machine, tables."""

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time

import jax


def exchanged(found):
    """Bytes of the arrays of a list of `hsproto.hardware.collectives`, in all their calls."""
    return sum(c.times * c.size for c in found)


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
