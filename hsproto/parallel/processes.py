"""The processes of one run: how they join, agree, and end together.

All processes run the same command, each with its own devices. On Cloud TPU pods, Slurm, Open MPI
and Kubernetes `--distributed` is enough; elsewhere give the address of process 0, the number of
processes and the number of this one: `--coordinator=HOST:PORT --num_processes=N --process_id=I`.
The workdir must be a folder that all of them share.
"""

import argparse
import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hsproto.errors import RunFailure, UserError, one_line, visible
from hsproto.parallel import agreement, rendezvous
from hsproto.parallel.store import JaxStore
from hsproto.parallel.watchdog import Watchdog

STARTUP_SECONDS = 300
# JAX ends processes with a stack trace; `parallel.watchdog` comes before it.
_JAX_HEARTBEAT_SECONDS = 100


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags with which a command joins the other processes of its run."""
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--distributed", action="store_true", help="detect a TPU pod, Slurm, Open MPI or K8s"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I", help="number of this one, in 0..N-1")
    group.add_argument(
        "--startup_timeout", type=float, metavar="SECONDS", default=STARTUP_SECONDS,
        help=f"how long to wait for all processes at the start (default {STARTUP_SECONDS})",
    )  # fmt: skip


def join(args: argparse.Namespace) -> None:
    """Join the processes that the flags name, if any, before any device is used.

    Raises:
        UserError: If the flags do not fit together, or the processes do not meet in time.
    """
    named = (args.coordinator, args.num_processes, args.process_id)
    if named == (None, None, None) and not args.distributed:
        return
    if None in named and not args.distributed:
        raise UserError("--coordinator, --num_processes and --process_id go together")
    seconds = args.startup_timeout
    if not 0 < seconds < 1e6:
        raise UserError(f"--startup_timeout={seconds:g} must be a positive number of seconds")
    if args.num_processes is not None:
        rendezvous.check_numbers(args.num_processes, args.process_id or 0)
    if args.coordinator is not None:
        address = rendezvous.parse_address(args.coordinator)
        if None not in named:
            rendezvous.meet(address, *named[1:], seconds, _log)
    try:
        with _time_limit(seconds):
            jax.distributed.initialize(
                *named,
                # JAX aborts at the end of its time.
                initialization_timeout=int(seconds) + 60,
                heartbeat_timeout_seconds=_JAX_HEARTBEAT_SECONDS,
            )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes could not be joined: {one_line(error, 300)}; "
            "see --coordinator, --num_processes and --process_id"
        ) from None


def _log(text):
    print(text, flush=True)


@contextlib.contextmanager
def _time_limit(seconds):
    """End the process with a line if JAX's service does not come up in time."""

    def end():
        _say(f"JAX could not join the processes within {seconds:g} s (--startup_timeout)")
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(text):
    print(f"hsproto: {text}", file=sys.stderr, flush=True)


def is_main() -> bool:
    """Return whether this process writes files and prints progress."""
    return jax.process_index() == 0


def all_processes(holds: bool) -> bool:
    """Return whether something holds in all processes."""
    if jax.process_count() == 1:
        return holds
    return bool(np.all(multihost_utils.process_allgather(np.array(holds))))


def log_main(text: str) -> None:
    """Print at once, in the main process only."""
    if is_main():
        print("\n".join(map(visible, text.split("\n"))), flush=True)


def barrier(name: str) -> None:
    """Wait until all processes reach this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agree(items: Mapping[str, Any]) -> None:
    """Raise the same UserError in all processes unless `items` are equal in all of them.

    It uses no collective, whose shapes may depend on what differs.

    Args:
        items: What to compare: values that JSON can hold, by names under which no others were
            compared before.
    """
    if jax.distributed.is_initialized():
        store = JaxStore()
        agreement.compare(store, store.index, store.count, items)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """End all processes of the run when one ends with an error within the context, or is lost.

    Each prints one line that says why, and exits with the status of the one that failed. A regular
    exit would wait for the others.
    """
    if not jax.distributed.is_initialized():
        yield
        return
    store = JaxStore()
    watchdog = Watchdog(store, store.index, store.count)
    watchdog.start()
    try:
        yield
        watchdog.finish()
    except UserError as error:
        watchdog.end(2, str(error))
    except RunFailure as error:
        watchdog.end(1, str(error))
    except Exception as error:
        # Of JAX, in several kinds, when a connection to another process failed.
        reason = one_line(error, 200)
        watchdog.end_if_lost(reason)
        traceback.print_exc()
        watchdog.end(1, f"{type(error).__name__}: {reason}")
