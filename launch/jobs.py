"""Commands run several at a time: a log for each, finished ones skipped, progress and an ETA."""

import argparse
import concurrent.futures
import contextlib
import json
import math
import os
import pathlib
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from interpreter import interpreter

# The Python that runs a launcher need not have hsproto; what is used here is the standard library.
sys.path.insert(1, str(pathlib.Path(__file__).resolve().parents[1]))

from hsproto.cli import local_path
from hsproto.errors import UserError
from hsproto.runs import owner

_NAME_BYTES = 255  # of a folder, on the usual file systems


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        sys.exit(usage(message))


def make_parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser whose help is a launcher's docstring."""
    return _Parser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_flags(parser: argparse.ArgumentParser, seeds: int) -> None:
    """Add the flags that all launchers of many runs have; `seeds` is the default of --seeds."""
    parser.add_argument("--out", type=_folder, help="the folder of all workdirs")
    parser.add_argument("--seeds", type=int, default=seeds, help="seeds 0..N-1 of each cell")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--gpus", help="one GPU per job, e.g. 0,1; instead of --jobs")
    parser.add_argument("--launcher", default=shlex.join([interpreter(), "-m", "hsproto.train"]))
    parser.add_argument("--dry-run", action="store_true", help="print the commands and exit")


def _folder(text):
    return pathlib.Path(local_path(text))


def make_pool(args: argparse.Namespace, minutes: float | None = None) -> "Pool":
    """Return the pool that those flags describe; it starts no job after so many minutes."""
    until = math.inf if minutes is None else time.monotonic() + 60 * minutes
    return Pool(args.gpus.split(",") if args.gpus else [None] * args.jobs, until)


def flags_mistake(args: argparse.Namespace) -> str | None:
    """Return what is wrong with those flags, or None."""
    if not args.out or args.seeds < 1 or args.jobs < 1:
        return "--out is needed, and --seeds and --jobs must be at least 1"
    try:
        command = shlex.split(args.launcher)
    except ValueError as error:
        return f"--launcher={args.launcher}: {error}"
    if not command or (not args.dry_run and shutil.which(command[0]) is None):
        return f"--launcher={args.launcher}: there is no such command"
    return None


def check_names(names: Iterable[str]) -> None:
    """Exit if a cell's name is too long for a folder."""
    for name in names:
        if (length := len(os.fsencode(name))) > _NAME_BYTES:
            raise SystemExit(
                usage(
                    f"the cell {name[:60]}... would have a folder's name of {length} bytes, and at "
                    f"most {_NAME_BYTES} are possible: give long values in --config"
                )
            )


@contextlib.contextmanager
def owned(out: pathlib.Path) -> Iterator[None]:
    """Create the folder of all workdirs and own it; exit if that is impossible."""
    with contextlib.ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(owner.owned(str(out), "--out"))
        except OSError as error:
            raise SystemExit(
                usage(f"--out={out} is no folder to write to: {error.strerror}")
            ) from None
        except UserError as error:
            print(f"hsproto: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        yield


def usage(message: str) -> int:
    """Print a mistake in the flags and return the exit status."""
    print(f"hsproto: {message}; see {sys.argv[0]} --help", file=sys.stderr)
    return 2


class Job(NamedTuple):
    """A command, and how to tell that it is finished.

    Attributes:
        command: The command line.
        folder: Where its log is written.
        result: Returns a line about its result, or None if it is not finished.
        begin: Called when the command is about to start.
        log: The name of its log, to which all its output is appended.
    """

    command: list[str]
    folder: pathlib.Path
    result: Callable[[], str | None]
    begin: Callable[[], object] = lambda: None
    log: str = "log.txt"

    def describe(self) -> str:
        """Return the command as a line of shell, marked if it is finished."""
        return shlex.join(self.command) + ("" if self.result() is None else "  # finished")


class Pool:
    """Runs jobs, one per slot at a time; a slot is a GPU's number, or None for any device.

    Several slots without a GPU divide the cores among them, because XLA programs that share all
    cores wait for each other. SIGTERM and Ctrl-C are passed to the running jobs, which save and
    exit, and no other job is started; nor is one after `until`, in seconds of `time.monotonic`.
    """

    def __init__(self, slots: list[str | None], until: float = math.inf):
        self._slots, self.stopping, self._running = queue.Queue(), False, set()
        self._until = until
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        share = len(cores) // len(slots)
        for number, gpu in enumerate(slots):
            own = cores[number * share : (number + 1) * share] if len(slots) > 1 else []
            self._slots.put((gpu, own if gpu is None else []))
        self._size = len(slots)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def run(self, jobs: dict[str, Job], what: str = "jobs") -> dict[str, int]:
        """Run the jobs that are not finished and return the exit status of each."""
        waiting = {name: job for name, job in jobs.items() if job.result() is None}
        print(f"{len(jobs)} {what}, {len(jobs) - len(waiting)} finished already", flush=True)
        start, statuses = time.monotonic(), {}
        with concurrent.futures.ThreadPoolExecutor(self._size) as threads:
            futures = {threads.submit(self._run, *item): item[0] for item in waiting.items()}
            for future in concurrent.futures.as_completed(futures):
                name, status = futures[future], future.result()
                if status is None:
                    continue
                statuses[name], job = status, jobs[name]
                outcome = job.result() or f"status {status}, see {job.folder / job.log}"
                passed, done = time.monotonic() - start, len(statuses)
                left = round(passed / done * (len(waiting) - done))
                print(f"{name}: {outcome}  ({done}/{len(waiting)}, ETA {left} s)", flush=True)
        return statuses

    def _run(self, name, job):
        """Run a job and return its exit status; None if the pool's end came before."""
        gpu, cores = self._slots.get()
        try:
            while not self.ended() and self._wait_for_owner(name, job):
                if job.result() is not None:
                    return 0
                status = self._start(job, gpu, cores)
                # One that a killed launcher had begun may have got ahead of this one.
                if status != 2 or not owner.Watch(job.folder).look()[1]:
                    return status
            return None
        except OSError as error:
            print(f"{name}: cannot be started: {error}", flush=True)
            return 2
        finally:
            self._slots.put((gpu, cores))

    def _wait_for_owner(self, name, job):
        """Wait for a process that runs the job already; return False if the pool is stopped."""
        watch, told = owner.Watch(job.folder), False
        while not self.stopping:
            record, alive = watch.look()
            if record is None or alive is False:
                return True
            if not told:
                print(f"{name}: waiting for {record}, which is at work there", flush=True)
            told = True
            time.sleep(1)
        return False

    def _start(self, job, gpu, cores):
        job.folder.mkdir(parents=True, exist_ok=True)
        job.begin()
        environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        with open(job.folder / job.log, "a") as log:
            process = subprocess.Popen(
                job.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # so that only this process gets Ctrl-C
            )
        if cores:
            os.sched_setaffinity(process.pid, cores)
        self._running.add(process)
        if self.stopping:  # meanwhile
            process.send_signal(signal.SIGTERM)
        status = process.wait()
        self._running.discard(process)
        return status

    def ended(self) -> bool:
        """Return whether no other job is started."""
        return self.stopping or time.monotonic() > self._until

    def _stop(self, *_):
        self.stopping = True
        for process in list(self._running):
            process.send_signal(signal.SIGTERM)


def read_value(path: pathlib.Path, *keys: str) -> Any:
    """Return the value at nested keys of a JSON file, or None if there is none."""
    try:
        value = json.loads(path.read_text())
        for key in keys:
            value = value[key]
    except (OSError, ValueError, KeyError):
        return None
    return value


def test_accuracy(workdir: pathlib.Path) -> float | None:
    """Return the test accuracy of a finished run, or None."""
    return read_value(workdir / "summary.json", "test", "accuracy")


def training_job(launcher: str, config: str, workdir: pathlib.Path) -> Job:
    """Return the job of a training run: `launcher` with --config and --workdir added."""

    def result():
        accuracy = test_accuracy(workdir)
        return None if accuracy is None else f"test accuracy {accuracy:.4f}"

    command = [*shlex.split(launcher), f"--config={config}", f"--workdir={workdir}"]
    return Job(command, workdir, result, lambda: (workdir / "cell.txt").write_text(command[-2]))


def check_same_config(jobs: Iterable[Job]) -> None:
    """Exit if the workdir of a training job holds a run of another --config.

    Its results would otherwise be taken for this one's.
    """
    for job in jobs:
        stored = job.folder / "cell.txt"
        if stored.exists() and _settings(stored.read_text()) != _settings(job.command[-2]):
            raise SystemExit(
                usage(f"{job.folder} holds a run of another --config, use another --out")
            )


def _settings(config):
    """A --config without the place of the data, which may change."""
    return re.sub(r"[:,]data_dir=[^,]*", "", config)
