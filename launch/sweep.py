#!/usr/bin/env python3
"""A grid of runs over config values and seeds; what is finished is never run again.

  launch/sweep.py [--dry-run] --config=configs/digits.py:epochs=20 --out=runs/sweep \\
      --grid loss=nonl,normface --grid temperature=0.07,0.1 [--seeds=3] [--jobs=2] [--gpus=0,1]

Every cell has a workdir OUT/loss=nonl,temperature=0.07,seed=0 and its output in log.txt there. The
same command goes on where it was stopped: finished cells are passed over, begun ones resume. A
value of a tuple is written with slashes (decay_epochs=60/75/90).

--launcher is the command that trains, to which --config and --workdir are added; by default
`hsproto train`, where PYTHON names the interpreter (default: .venv's where there is one).
On other machines for example
--launcher="sbatch --wait launch/slurm.sbatch" or --launcher="launch/simulate_pod.py --devices=1".
Status: 0 when all cells are finished, 2 for a mistake in the flags, else 1.
"""

import argparse
import itertools
import pathlib
import shlex
import statistics
import sys

from jobs import add_flags, of_another_config, pool_of, test_accuracy, training, usage


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


def job(args, cell, workdir):
    separator = "," if ":" in args.config else ":"
    return training(shlex.split(args.launcher), args.config + separator + ",".join(cell), workdir)


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
    add_flags(parser)
    args = parser.parse_args()
    if args.seeds < 1 or args.jobs < 1:
        return usage("--seeds and --jobs must be at least 1")
    grid = {name: (cell, args.out / name) for name, cell in cells(args).items()}
    jobs = {name: job(args, *place) for name, place in grid.items()}
    if args.dry_run:
        for found in jobs.values():
            done = "" if found.result() is None else "  # finished"
            print(shlex.join(found.command) + done)
        return 0
    others = [found.folder for found in jobs.values() if of_another_config(found)]
    if others:
        return usage(f"{others[0]} holds a run of another --config, take another --out")

    statuses = pool_of(args).run(jobs, "cells")
    tell(grid)
    if all(found.result() is not None for found in jobs.values()):
        return 0
    return 2 if set(statuses.values()) == {2} else 1


def tell(grid):
    """Prints mean and standard deviation over the seeds of each finished cell."""
    groups = {}
    for cell, workdir in grid.values():
        groups.setdefault(",".join(cell[:-1]), []).append(test_accuracy(workdir))
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
