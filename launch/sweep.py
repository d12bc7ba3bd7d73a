#!/usr/bin/env python3
"""A grid of runs over config values and seeds; what is finished is never run again.

  launch/sweep.py [--dry-run] --config=configs/digits.py:epochs=20 --out=runs/sweep \\
      --grid loss=nonl,normface --grid temperature=0.07,0.1 [--seeds=3] [--jobs=2] [--gpus=0,1]

Every cell has a workdir OUT/loss=nonl,temperature=0.07,seed=0 and its output in log.txt there. The
same command goes on where it was stopped: finished cells are passed over, begun ones resume. A
value of a tuple is written with slashes (decay_epochs=60/75/90).

--launcher is the command that trains, to which --config and --workdir are added; by default
`python -m hsproto.train`, where PYTHON names the interpreter (default: .venv's where there is one).
On other machines for example
--launcher="sbatch --wait launch/slurm.sbatch" or --launcher="launch/simulate_pod.py --devices=1".
Status: 0 when all cells are finished, 2 for a mistake in the flags, else 1.
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import pathlib
import queue
import shlex
import signal
import statistics
import subprocess
import sys
import time

from interpreter import interpreter

running = set()
stopping = False


def cells(args):
    """{name: [key=value, ...]} of the grid, seeds innermost."""
    axes = []
    for item in args.grid:
        key, equals, values = item.partition("=")
        if not equals or not values:
            raise SystemExit(usage(f"--grid {item!r} is not of the form key=value,value"))
        axes.append([f"{key}={value}" for value in values.split(",")])
    axes.append([f"seed={seed}" for seed in range(args.seeds)])
    return {",".join(cell): cell for cell in itertools.product(*axes)}


def usage(message):
    print(f"hsproto: {message}; see {sys.argv[0]} --help", file=sys.stderr)
    return 2


def command(args, cell, workdir):
    separator = "," if ":" in args.config else ":"
    config = f"--config={args.config}{separator}{','.join(cell)}"
    return [*shlex.split(args.launcher), config, f"--workdir={workdir}"]


def accuracy(workdir):
    """Test accuracy of a finished cell, or None."""
    try:
        return json.loads((workdir / "summary.json").read_text())["test"]["accuracy"]
    except (OSError, ValueError, KeyError):
        return None


def other_config(args, cell, workdir):
    """Whether a cell was begun by another --config, whose results would pass for this one's."""
    begun = workdir / "cell.txt"
    return begun.exists() and begun.read_text() != command(args, cell, workdir)[-2]


def begin(args, cell, workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "cell.txt").write_text(command(args, cell, workdir)[-2])


def train(args, cell, workdir, gpus):
    """Runs a cell to its end; its status, or None where the sweep was stopped before."""
    if stopping:
        return None
    begin(args, cell, workdir)
    gpu = gpus.get()
    environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    try:
        with open(workdir / "log.txt", "a") as log:
            process = subprocess.Popen(
                command(args, cell, workdir),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # so that Ctrl-C comes here alone
            )
            running.add(process)
            status = process.wait()
            running.discard(process)
    finally:
        gpus.put(gpu)
    return status


def stop(*_):
    """Running cells save and end; no other is begun."""
    global stopping
    stopping = True
    for process in list(running):
        process.send_signal(signal.SIGTERM)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE.py[:key=value,...]")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,VALUE")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0..N-1 of each cell")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--gpus", help="a GPU for each job, as 0,1; instead of --jobs")
    parser.add_argument("--launcher", default=shlex.join([interpreter(), "-m", "hsproto.train"]))
    parser.add_argument("--dry-run", action="store_true", help="print the commands and end")
    args = parser.parse_args()
    if args.seeds < 1 or args.jobs < 1:
        return usage("--seeds and --jobs must be at least 1")
    grid = {name: (cell, args.out / name) for name, cell in cells(args).items()}
    waiting = {n: c for n, c in grid.items() if accuracy(c[1]) is None}
    if args.dry_run:
        for name, (cell, workdir) in grid.items():
            done = "" if name in waiting else "  # finished"
            print(shlex.join(command(args, cell, workdir)) + done)
        return 0

    others = [name for name, (cell, workdir) in grid.items() if other_config(args, cell, workdir)]
    if others:
        return usage(f"{args.out / others[0]} holds a run of another --config, take another --out")

    slots = args.gpus.split(",") if args.gpus else [None] * args.jobs
    gpus = queue.Queue()
    for slot in slots:
        gpus.put(slot)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    print(f"{len(grid)} cells, {len(grid) - len(waiting)} finished already", flush=True)
    start, statuses = time.monotonic(), []
    with concurrent.futures.ThreadPoolExecutor(len(slots)) as pool:
        futures = {pool.submit(train, args, *cell, gpus): n for n, cell in waiting.items()}
        for future in concurrent.futures.as_completed(futures):
            name, status = futures[future], future.result()
            if status is None:
                continue
            statuses.append(status)
            reached = accuracy(grid[name][1])
            told = f"status {status}, see {grid[name][1] / 'log.txt'}"
            told = told if reached is None else f"test accuracy {reached:.4f}"
            left = (time.monotonic() - start) / len(statuses) * (len(waiting) - len(statuses))
            print(f"{name}: {told}  ({len(statuses)}/{len(waiting)}, ETA {left:.0f} s)", flush=True)
    tell(grid)
    if all(accuracy(workdir) is not None for _, workdir in grid.values()):
        return 0
    return 2 if set(statuses) == {2} else 1


def tell(grid):
    """Prints mean and standard deviation over the seeds of each finished cell."""
    groups = {}
    for cell, workdir in grid.values():
        groups.setdefault(",".join(cell[:-1]), []).append(accuracy(workdir))
    print("test accuracy, mean ± standard deviation over finished seeds")
    for name, values in groups.items():
        values = [value for value in values if value is not None]
        if values:
            deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            print(f"{name or 'all'}: {statistics.mean(values):.4f}{deviation} (n={len(values)})")
        else:
            print(f"{name or 'all'}: -")


if __name__ == "__main__":
    sys.exit(main())
