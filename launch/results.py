#!/usr/bin/env python3
"""Run the studies behind docs/results, by the protocol of docs/results/protocol.md.

  python launch/image_features.py --from=NPZ --out=FEATURES
  python launch/corrupted_features.py --from=NPZ --out=FEATURES
  python launch/results.py --features=FEATURES --out=runs/results [STUDY ...] [--jobs=2]
  python launch/small_data.py --from=NPZ --out=SMALL cifar100 cifar10
  python launch/results.py --images=SMALL --out=runs/results scratch
  python launch/results.py --out=runs/results --collect=docs/results

First each method's values are chosen by trials, then the study's runs are trained with them and
measured. Groups of runs share a process; --jobs of these are at work at a time, each on its own
cores. What is finished is not repeated, so that the same command continues a stopped study; --until
starts no group after so many minutes. --collect adds what is finished to FOLDER/heads.json and
scratch.json, of which the tables of docs/results are made: `hsproto report docs/results/heads.json
--out=DIR` makes them. What --records=FOLDER holds of these is not run either, so that a study can
be extended on another machine: --records=docs/results.
Exit status: 0 if all is finished, 2 for a mistake in the flags, else 1.
"""

import json
import os
import pathlib
import sys

import protocol
from interpreter import interpreter
from jobs import Job, make_parser, make_pool, owned, read_value, usage
from recorded import Recorded

HERE = pathlib.Path(__file__).resolve().parent


def is_finished(cell, args):
    return cell in args.records or protocol.is_finished(cell, args.out)


def job(name, cells, args):
    """Return the job that trains and measures cells in one process."""
    folder = args.out / "groups" / name
    listed = folder / "cells.json"

    def result():
        finished = all(is_finished(cell, args) for cell in cells)
        return f"{len(cells)} runs" if finished else None

    def begin():
        places = {"features": args.features, "images": args.images, "out": args.out}
        work = {name: path and str(path.resolve()) for name, path in places.items()}
        work["cells"] = [cell for cell in cells if cell not in args.records]
        listed.write_text(json.dumps(work, indent=1))

    command = [interpreter(), str(HERE / "train_cells.py"), str(listed)]
    return Job(command, folder, result, begin)


def validation_accuracies(cells, args):
    """Return the accuracies of trials on held-out rows, None for those that diverged."""
    return [
        args.records.held_out(cell)
        if cell in args.records
        else read_value(args.out / cell.name / "summary.json", "test", "accuracy")
        for cell in cells
    ]


def trial_jobs(args, groups):
    """Return {name: job} of the trials that groups of runs need."""
    found = {}
    for study, dataset, method in groups:
        head = protocol.STUDIES[study].head
        name = f"trials,{head},{dataset},{method}"
        found[name] = job(name, protocol.trials(head, dataset, method), args)
    return found


def run_jobs(args, groups):
    """Return {name: job} of the runs of groups whose trials are finished."""
    found = {}
    for study, dataset, method in groups:
        head = protocol.STUDIES[study].head
        trials = protocol.trials(head, dataset, method)
        if all(is_finished(cell, args) for cell in trials):
            try:
                best = protocol.best(validation_accuracies(trials, args))
            except ValueError as error:
                print(f"{study} {dataset} {method}: {error}")
                continue
            cells = protocol.runs(study, dataset, method, protocol.drawn(head, method, best))
            cells = cells if args.seeds is None else [c for c in cells if c.number < args.seeds]
            found[f"{study},{dataset},{method}"] = job(f"{study},{dataset},{method}", cells, args)
    return found


def flags_mistake(args, sets, methods):
    """Return what is wrong with the flags, or None."""
    if not args.out or args.jobs < 1 or (args.seeds is not None and args.seeds < 1):
        return "--out is needed, and --jobs and --seeds must be at least 1"
    for given, known in (
        (args.studies, protocol.STUDIES),
        (sets, protocol.SETS),
        (methods, protocol.METHODS),
    ):
        if unknown := [name for name in given if name not in known]:
            return f"{unknown[0]} must be one of: {', '.join(known)}"
    if args.collect:
        held = any((args.out / name).is_dir() for name in ("trials", *protocol.STUDIES))
        return None if held else f"--out={args.out} holds no study"
    if args.records and not any(args.records.glob("*.json")):
        return f"--records={args.records} holds no records"
    of_images = [
        name for name in args.studies if protocol.HEADS[protocol.STUDIES[name].head].recipe
    ]
    if of_images and not args.images:
        return f"{of_images[0]} needs --images: launch/small_data.py makes them"
    if len(of_images) == len(args.studies):
        return None
    if not args.features:
        return "--features is needed: launch/image_features.py makes them"
    # Runs are measured on all sets.
    missing = [name for name in protocol.SETS if not (args.features / name).is_dir()]
    if missing:
        return f"--features={args.features} has no folder {missing[0]}"
    if "robustness" in args.studies and not (args.features / "corrupted").is_dir():
        return f"robustness needs --features={args.features}/corrupted: see corrupted_features.py"
    return None


def main():
    parser = make_parser(__doc__)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(protocol.STUDIES))
    parser.add_argument("--features", type=pathlib.Path, help="of launch/image_features.py")
    parser.add_argument("--images", type=pathlib.Path, help="of launch/small_data.py")
    parser.add_argument("--out", type=pathlib.Path, help="the folder of all workdirs")
    parser.add_argument("--sets", default=",".join(protocol.SETS), help="default: %(default)s")
    parser.add_argument("--methods", default=",".join(protocol.METHODS), help="default: all")
    parser.add_argument("--jobs", type=int, default=1, help="groups of runs at a time")
    parser.add_argument("--seeds", type=int, help="0..N-1 of each run; default: the protocol's")
    parser.add_argument("--until", type=float, metavar="MINUTES", help="default: no end")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and exit")
    parser.add_argument("--collect", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--records", type=pathlib.Path, metavar="FOLDER", help="as --collect wrote")
    parser.set_defaults(gpus=None)
    args = parser.parse_args()
    args.studies = args.studies or list(protocol.REGIMES["heads"])
    sets, methods = args.sets.split(","), args.methods.split(",")
    if mistake := flags_mistake(args, sets, methods):
        return usage(mistake)
    if args.collect:
        import collect_cells  # hsproto's packages, which launchers do without

        return collect_cells.collect(args.out, args.collect)
    args.records = Recorded(args.records)
    groups = [
        group
        for group in protocol.groups(tuple(args.studies))
        if group[1] in sets and group[2] in methods
    ]
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.out / "compiled"))
    if args.dry_run:
        for made in trial_jobs(args, groups).values():
            print(made.describe())
        return 0
    pool = make_pool(args, args.until)
    with owned(args.out):
        jobs = []
        # Set by set, so that what is finished when it is stopped are whole comparisons.
        for study, dataset in dict.fromkeys((study, dataset) for study, dataset, _ in groups):
            chosen = [group for group in groups if group[:2] == (study, dataset)]
            for make, what in ((trial_jobs, "groups of trials"), (run_jobs, "groups of runs")):
                if pool.ended():
                    return 1
                made = make(args, chosen)
                print(f"{study} {dataset}: ", end="")
                pool.run(made, what)
                jobs += made.values()
    return 0 if all(made.result() is not None for made in jobs) and not pool.stopping else 1


if __name__ == "__main__":
    sys.exit(main())
