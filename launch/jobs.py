"""Commands some at a time: each with its log, what is finished never again, progress and an ETA."""

import concurrent.futures
import json
import os
import pathlib
import queue
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from interpreter import interpreter


def add_flags(parser):
    """The flags of how runs are started, of every launcher of many."""
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--gpus", help="a GPU for each job, as 0,1; instead of --jobs")
    parser.add_argument("--launcher", default=shlex.join([interpreter(), "-m", "hsproto.train"]))
    parser.add_argument("--dry-run", action="store_true", help="print the commands and end")


def pool_of(args):
    """The `Pool` that those flags ask for."""
    return Pool(args.gpus.split(",") if args.gpus else [None] * args.jobs)


def usage(message):
    print(f"hsproto: {message}; see {sys.argv[0]} --help", file=sys.stderr)
    return 2


class Job(NamedTuple):
    """`command` leaves its output in `folder`/`log`; `result` says what it reached, None before.

    `begin` is called, if given, when the command is about to start.
    """

    command: list
    folder: pathlib.Path
    result: Callable
    begin: Callable = lambda: None
    log: str = "log.txt"


class Pool:
    """Runs jobs, `slots` at a time; a slot is a GPU's number, or None for any device.

    With several slots on a machine without GPUs each gets its share of the cores: programs of XLA
    that share all of them wait for each other. SIGTERM and Ctrl-C are handed to what runs, which
    saves and ends, and nothing else is begun.
    """

    def __init__(self, slots):
        self._slots, self.stopping, self._running = queue.Queue(), False, set()
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        share = len(cores) // len(slots)
        for number, gpu in enumerate(slots):
            mine = cores[number * share : (number + 1) * share] if len(slots) > 1 else []
            self._slots.put((gpu, mine if gpu is None else []))
        self._size = len(slots)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def run(self, jobs, what="jobs"):
        """{name: exit status} of those of `jobs` {name: Job} that were not finished before."""
        waiting = {name: job for name, job in jobs.items() if job.result() is None}
        print(f"{len(jobs)} {what}, {len(jobs) - len(waiting)} finished already", flush=True)
        start, statuses = time.monotonic(), {}
        with concurrent.futures.ThreadPoolExecutor(self._size) as threads:
            futures = {threads.submit(self._run, job): name for name, job in waiting.items()}
            for future in concurrent.futures.as_completed(futures):
                name, status = futures[future], future.result()
                if status is None:
                    continue
                statuses[name], job = status, jobs[name]
                reached = job.result()
                told = (
                    f"status {status}, see {job.folder / job.log}" if reached is None else reached
                )
                passed, done = time.monotonic() - start, len(statuses)
                left = round(passed / done * (len(waiting) - done))
                print(f"{name}: {told}  ({done}/{len(waiting)}, ETA {left} s)", flush=True)
        return statuses

    def _run(self, job):
        """Runs a job to its end; its status, or None where the pool was stopped before."""
        if self.stopping:
            return None
        job.folder.mkdir(parents=True, exist_ok=True)
        job.begin()
        gpu, cores = self._slots.get()
        environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        try:
            with open(job.folder / job.log, "a") as log:
                process = subprocess.Popen(
                    job.command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,  # so that Ctrl-C comes here alone
                )
                if cores:
                    os.sched_setaffinity(process.pid, cores)
                self._running.add(process)
                status = process.wait()
                self._running.discard(process)
        finally:
            self._slots.put((gpu, cores))
        return status

    def _stop(self, *_):
        self.stopping = True
        for process in list(self._running):
            process.send_signal(signal.SIGTERM)


def test_accuracy(workdir):
    """Test accuracy of a finished run, or None."""
    try:
        return json.loads((workdir / "summary.json").read_text())["test"]["accuracy"]
    except (OSError, ValueError, KeyError):
        return None


def training(command, config, workdir):
    """The Job of a training run: `command` with --config and --workdir added."""

    def result():
        reached = test_accuracy(workdir)
        return None if reached is None else f"test accuracy {reached:.4f}"

    full = [*command, f"--config={config}", f"--workdir={workdir}"]
    return Job(full, workdir, result, lambda: (workdir / "cell.txt").write_text(full[-2]))


def of_another_config(job):
    """Whether a training job's workdir was begun by another --config, whose results would pass for
    this one's."""
    begun = job.folder / "cell.txt"
    return begun.exists() and _settings(begun.read_text()) != _settings(job.command[-2])


def _settings(config):
    """A --config without the place of the data, which may change."""
    return re.sub(r"[:,]data_dir=[^,]*", "", config)
