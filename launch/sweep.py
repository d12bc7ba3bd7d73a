#!/usr/bin/env python3
"""Train a grid of config values and seeds; finished runs are never repeated.

  launch/sweep.py [--dry-run] --config=configs/digits.py:epochs=20 --out=runs/sweep \\
      --grid loss=nonl,normface --grid temperature=0.07,0.1 [--seeds=3] [--jobs=2] [--gpus=0,1]

Each cell has a workdir OUT/loss=nonl,temperature=0.07,seed=0 with its output in log.txt. The same
command continues a stopped sweep: finished cells are skipped, others start or resume. A cell that a
killed sweep left running is waited for, and two sweeps do not share an --out at a time. Tuples are
written with slashes (decay_epochs=60/75/90).

--launcher is the training command, to which --config and --workdir are added. The default is
`hsproto train`; PYTHON names the interpreter (default: that of .venv if it exists). On other
machines use, e.g., --launcher="sbatch --wait launch/slurm.sbatch" or
--launcher="launch/simulate_pod.py --devices=1".
Exit status: 0 if all cells are finished, 2 for a mistake in the flags, else 1.
"""

import itertools
import statistics
import sys

from jobs import (
    add_flags,
    check_names,
    check_same_config,
    flags_mistake,
    make_parser,
    make_pool,
    owned,
    test_accuracy,
    training_job,
    usage,
)


def cells(grid, seeds):
    """Return {name: [key=value, ...]} for all cells, seeds innermost."""
    axes, keys = [], set()
    for item in grid:
        key, equals, values = item.partition("=")
        if not equals or not values:
            raise SystemExit(usage(f"--grid {item!r} is not of the form key=value,value"))
        if key == "seed":
            raise SystemExit(usage(f"--grid {item!r}: seeds 0..N-1 are --seeds=N"))
        if key in keys:
            raise SystemExit(usage(f"--grid gives {key} twice"))
        # A cell names a folder of --out.
        if not key.isidentifier() or ".." in values.split("/"):
            raise SystemExit(usage(f"--grid {item!r} must be a config key and its values"))
        keys.add(key)
        axes.append([f"{key}={value}" for value in values.split(",")])
    axes.append([f"seed={seed}" for seed in range(seeds)])
    return {",".join(cell): cell for cell in itertools.product(*axes)}


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--config", required=True, metavar="FILE.py[:key=value,...]")
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,VALUE")
    add_flags(parser, seeds=1)
    args = parser.parse_args()
    if mistake := flags_mistake(args):
        return usage(mistake)
    config = args.config + ("," if ":" in args.config else ":")
    grid = cells(args.grid, args.seeds)
    check_names(grid)
    jobs = {
        name: training_job(args.launcher, config + ",".join(cell), args.out / name)
        for name, cell in grid.items()
    }
    if args.dry_run:
        for job in jobs.values():
            print(job.describe())
        return 0
    pool = make_pool(args)
    with owned(args.out):
        check_same_config(jobs.values())
        statuses = pool.run(jobs, "cells")
    print_means(grid, args.out)
    if all(job.result() is not None for job in jobs.values()):
        return 0
    return 2 if set(statuses.values()) == {2} else 1


def print_means(grid, out):
    """Print mean and standard deviation over the finished seeds of each cell."""
    groups = {}
    for name, cell in grid.items():
        groups.setdefault(",".join(cell[:-1]), []).append(test_accuracy(out / name))
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
