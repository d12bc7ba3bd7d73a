"""The processes of one run: how they join, and exit when one is lost.

All processes run the same command, each with its own devices. On Cloud TPU pods, Slurm, Open MPI
and Kubernetes `--distributed` is enough; elsewhere give the address of process 0, the number of
processes and the number of this one: `--coordinator=HOST:PORT --num_processes=N --process_id=I`.
The workdir must be a folder that all of them share.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from hsproto.errors import UserError, one_line, visible

# A process that is silent for this long counts as lost; the others then exit.
HEARTBEAT_SECONDS = 30


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags with which a command joins the other processes of its run."""
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--distributed", action="store_true", help="detect a TPU pod, Slurm, Open MPI or K8s"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I", help="number of this one, in 0..N-1")


def join(args: argparse.Namespace) -> None:
    """Join the processes that the flags name, if any, before any device is used.

    Raises:
        UserError: If the flags do not fit together.
    """
    named = (args.coordinator, args.num_processes, args.process_id)
    if named == (None, None, None) and not args.distributed:
        return
    if None in named and not args.distributed:
        raise UserError("--coordinator, --num_processes and --process_id go together")
    if args.num_processes is not None and not 0 <= (args.process_id or 0) < args.num_processes:
        raise UserError(
            f"--process_id={args.process_id} must be in 0..{args.num_processes - 1}, "
            f"as --num_processes={args.num_processes}"
        )
    try:
        jax.distributed.initialize(*named, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes could not be joined: {one_line(error, 300)}; "
            "see --coordinator, --num_processes and --process_id"
        ) from None


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


@contextlib.contextmanager
def exit_if_process_lost() -> Iterator[None]:
    """Exit with one line if another process of the run is lost within the context."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        _exit_lost(error)


def _exit_lost(error):
    reason = one_line(error, 200)
    print(
        f"hsproto: process {jax.process_index()} of {jax.process_count()} lost another one and "
        f"exits; the same command resumes ({reason})",
        file=sys.stderr,
        flush=True,
    )
    if is_main():
        # This process runs the service on which the others depend: give them time for their line.
        time.sleep(2)
    # A regular exit would wait for the lost process.
    os._exit(1)
