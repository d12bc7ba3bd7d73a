"""A run that is disturbed at chosen operations, judged, and repeated."""

import collections
import os

import numpy as np


def chosen(operations, count):
    """The operations to try: `count` evenly spaced ones, or as many as the environment asks for."""
    wanted = os.environ.get("HSPROTO_FAULTS", count)
    count = operations if wanted == "all" else min(int(wanted), operations)
    return sorted({round(i) for i in np.linspace(1, operations, count)})


def disturb(trials, undisturbed, operations, **fault):
    """Try a fault at each operation; return {verdict: operations}."""
    verdicts = collections.defaultdict(list)
    _, wanted = undisturbed
    for at in operations:
        trial = next(trials)
        status = trial.train(AT=at, **fault)
        verdicts[verdict_of(trial, status, wanted)].append(at)
    counts = {verdict.partition(":")[0]: len(tried) for verdict, tried in verdicts.items()}
    print(f"{fault}: {len(operations)} of {undisturbed[0]} operations: {counts}")
    return dict(verdicts)


def verdict_of(trial, status, wanted):
    """Judge a disturbed command and its repetition: "good", or what is wrong and the log's end."""
    if status is None:
        return f"hung: {trial.text[-300:]}"
    if status not in (0, 1, 2, -9):
        return f"status {status}: {trial.text[-300:]}"
    if "Traceback" in trial.text:
        return f"traceback: {trial.text[-2000:]}"
    lines = [line for line in trial.text.splitlines() if line.startswith("hsproto: ")]
    if len(lines) != (status in (1, 2)):
        return f"status {status} with {lines}"
    # What is not there yet is told: the run was stopped, or its pictures are still to be drawn.
    told = "stopped" in trial.text or "the pictures could not be written" in trial.text
    if status == 0 and not told and not same_result(trial, wanted):
        return f"silent: {trial.text[-300:]}"
    if trial.train() != 0 or not same_result(trial, wanted):
        return f"lost: {trial.text[-2000:]}"
    return "good"


def same_result(trial, wanted):
    try:
        return trial.result() == wanted
    except (OSError, ValueError):
        return False
