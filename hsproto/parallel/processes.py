"""The processes of one run: how they join, agree on where to stop, and end when one is lost.

Every process runs the same command and drives its own devices. On Cloud TPU pods, Slurm, Open MPI
and Kubernetes `--distributed` is enough; elsewhere say where process 0 is, how many there are and
which one this is: `--coordinator=HOST:PORT --num_processes=N --process_id=I`. The workdir must be a
folder that all of them see.
"""

import contextlib
import os
import signal
import sys
import threading
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from hsproto.errors import UserError, one_line

# A process that is silent for so long counts as lost; the others then end.
HEARTBEAT_SECONDS = 30


def add_flags(parser):
    """The flags by which a command joins the other processes of its run."""
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--distributed", action="store_true", help="join, as found on a TPU pod, Slurm, MPI or K8s"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 is")
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I", help="this one, in 0..N-1")


def join(args):
    """Joins the processes that the flags name; nothing where they name none.

    To be called before anything touches a device. Raises UserError where the flags do not fit.
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


def is_main():
    """Whether this process writes files and prints progress."""
    return jax.process_index() == 0


def all_processes(holds):
    """Whether something holds in every process."""
    if jax.process_count() == 1:
        return holds
    return bool(np.all(multihost_utils.process_allgather(np.array(holds))))


def log_main(text):
    """Prints at once, in one process of all."""
    if is_main():
        print(text, flush=True)


def barrier(name):
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def exit_if_process_lost():
    """Ends this process, with one line, where another one of the run was lost."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        _end_lost(error)


def _end_lost(error):
    reason = one_line(error, 200)
    print(
        f"hsproto: process {jax.process_index()} of {jax.process_count()} lost another one and "
        f"ends; the same command resumes ({reason})",
        file=sys.stderr,
        flush=True,
    )
    if is_main():
        # The others hang on the service that lives here: its end would cut their line off.
        time.sleep(2)
    # A proper exit would wait for the lost one.
    os._exit(1)


class Preemption:
    """Whether the run is to save and end: after SIGTERM or SIGINT, where it is of one process, or
    after SIGTERM to any of several.

    A second SIGINT kills. Of several processes the one that gets SIGTERM tells the others, and all
    stop at the same step (JAX's preemption service, which holds the handler of SIGTERM).
    """

    def __enter__(self):
        self._requested = False
        self._previous = {}
        self._many = jax.process_count() > 1
        numbers = () if self._many else (signal.SIGTERM, signal.SIGINT)
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        """Return whether to save and end after `step`; must be called at every step."""
        if self._many:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    def _request(self, number, _):
        self._requested = True
        os.write(2, b"stopping after this step\n")
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._previous[signal.SIGINT])
