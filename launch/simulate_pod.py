#!/usr/bin/env python3
"""Simulate a pod on a laptop: N processes with M simulated CPU devices each, over loopback.

  launch/simulate_pod.py [--processes=4] [--devices=2] [--dry-run] \\
      --config=configs/digits.py --workdir=runs/pod

All other flags go to `hsproto train`, or to the module named by --module. Output lines of process i
begin with [i]. SIGTERM and Ctrl-C go to one process, as a preemption does; all of them save and
exit. If one is lost, the others exit too. Exit status: 0 if that of all processes is 0, 2 for a
mistake in the flags, else 1. PYTHON names the interpreter (default: that of .venv if it exists).
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading

from interpreter import interpreter
from jobs import make_parser, usage

GRACE_SECONDS = 60  # for the other processes to exit by themselves once one has failed


def free_port():
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return sock.getsockname()[1]


def commands(args, flags):
    """Return the command line of each process."""
    coordinator = f"localhost:{args.port or free_port()}"
    return [
        [interpreter(), "-m", args.module, *flags]
        + [f"--coordinator={coordinator}", f"--num_processes={args.processes}", f"--process_id={i}"]
        for i in range(args.processes)
    ]


def relay(index, stream, lock):
    for line in stream:
        with lock:
            sys.stdout.write(f"[{index}] {line}")
            sys.stdout.flush()


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--devices", type=int, default=2, help="per process")
    parser.add_argument("--module", default="hsproto.train")
    parser.add_argument("--port", type=int, default=0, help="of process 0; default: a free one")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and exit")
    args, flags = parser.parse_known_args()
    if args.processes < 1 or args.devices < 1:
        return usage("--processes and --devices must be at least 1")
    settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(args.devices), "NPROC": "32"}
    lines = commands(args, flags)
    if args.dry_run:
        for line in lines:
            print(" ".join([f"{k}={v}" for k, v in settings.items()]), shlex.join(line))
        return 0

    lock = threading.Lock()
    processes = [
        subprocess.Popen(
            line,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that only this process gets Ctrl-C
        )
        for line in lines
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: processes[-1].send_signal(signal.SIGTERM))
    relays = [
        threading.Thread(target=relay, args=(i, p.stdout, lock)) for i, p in enumerate(processes)
    ]
    for thread in relays:
        thread.start()
    status = wait(processes)
    for thread in relays:
        thread.join()
    return status


def wait(processes):
    """Wait for all processes, after a failure for GRACE_SECONDS; return the exit status."""
    failed = threading.Event()

    def watch(process):
        if process.wait() != 0:
            failed.set()

    watchers = [threading.Thread(target=watch, args=(p,)) for p in processes]
    for watcher in watchers:
        watcher.start()
    while any(p.poll() is None for p in processes) and not failed.wait(0.1):
        pass
    for process in processes:
        try:
            process.wait(GRACE_SECONDS if failed.is_set() else None)
        except subprocess.TimeoutExpired:
            process.kill()
    for watcher in watchers:
        watcher.join()
    for index, process in enumerate(processes):
        if process.returncode:
            print(f"[{index}] ended with status {process.returncode}", file=sys.stderr, flush=True)
    statuses = {p.returncode for p in processes}
    return 0 if statuses == {0} else 2 if 2 in statuses else 1


if __name__ == "__main__":
    sys.exit(main())
