#!/usr/bin/env python3
"""The paper's tables and figures as runs, at its own scale or at a desk's.

  launch/paper.py --list
  launch/paper.py accuracy longtail --profile=small --data_dir=SMALL --out=runs/paper [--jobs=2]
  python -m hsproto.report runs/paper --out=report

A study is a grid of training runs and the commands that measure them. All studies share --out:
what one has finished no other repeats, and the same command goes on where it was stopped. Every run
has a workdir OUT/RECIPE,key=value,... with its output in log.txt, that of a command on it in
COMMAND.txt.

--profile=paper takes the recipes of the paper's protocols (GPUs; CIFAR by TFDS, ImageNet from the
folder --data_dir), --profile=small configs/small.py (a CPU; data by launch/small_data.py).
--where keeps some of the cells (dataset=cifar10,cifar100; `own` stands for a recipe's own value:
batch_size=own,512), --set changes all of them (epochs=200,dtype=bfloat16). --launcher and --gpus
are those of launch/sweep.py.
Status: 0 when all is finished, 2 for a mistake in the flags, else 1.
"""

import argparse
import itertools
import os
import pathlib
import shlex
import sys
from typing import NamedTuple

from interpreter import interpreter
from jobs import Job, Pool, of_another_config, training

LOSSES = "cross_entropy dot_regression normface ntce nonl decoupled_normface".split()
SMALL_SETS = "cifar10 cifar100 tinyimagenet100 fashion_mnist".split()
FEW_CLASSES = "cifar10 fashion_mnist".split()
# An axis's value that is the recipe's own: the same run as in studies without that axis.
OWN = None


class Study(NamedTuple):
    """`shows` which of the paper's tables, by `grids` {profile: [(recipe, axes), ...]}.

    A grid's cells are all combinations of its axes' values. `commands` {recipe, or "" for any
    other: [command, ...]} measure each run; what they may name is in `words`.
    """

    shows: str
    grids: dict
    commands: dict = {}


def grid(recipe, **axes):
    return recipe, axes


def small(**axes):
    return "small", {"dataset": SMALL_SETS} | axes


CIFAR = ["cifar10", "cifar100"]
CLASSIFIERS = [
    grid("cifar", dataset=CIFAR, loss=LOSSES),
    grid("imagenet100", loss=LOSSES),
    grid("imagenet", loss=LOSSES),
]
PROTOTYPE_LOSSES = ["normface", "ntce", "nonl"]
COMPARED = ["cross_entropy", *PROTOTYPE_LOSSES]
TAILS = dict(dataset=CIFAR, imbalance_factor=["0.1", "0.02", "0.01"], loss=LOSSES)
COARSE = dict(dataset=["cifar100"], class_groups=["cifar100_coarse"], loss=LOSSES)
DIGITS = [
    grid("digits", loss=LOSSES, eval_every_epochs=["2"]),
    grid("scl_digits", loss=[OWN, "prototype_softmax"], eval_every_epochs=["2"]),
]
HEADS = [OWN, "none"]
EMBEDDINGS = dict(dataset=CIFAR, loss=LOSSES, embedding=[OWN, "signed"])
# Fewer penalties than 45, and sets of few classes: the others take longer than the training.
TRANSFER = "transfer --source=arrays --data_dir={data_dir}"
ERRORS = "robustness --corrupted={out}/corrupted/{dataset}"

STUDIES = {
    "accuracy": Study(
        "Tables 1 and 3: accuracy and geometry of all losses. Table 7, Figure 2: its convergence",
        {"paper": CLASSIFIERS, "small": [small(loss=LOSSES)]},
    ),
    "collapse": Study(
        "Table 7, Figure 2 where collapse is complete: the embedded digits, all losses",
        dict.fromkeys(("paper", "small"), DIGITS),
        {"scl_digits": ["probe --learning_rate=0.5"]},
    ),
    "classifiers": Study(
        "Tables 2, 8, 14: classifiers on SCL's encoder, with its head and without",
        {
            "paper": [
                grid("scl_cifar", dataset=CIFAR, projection=HEADS),
                grid("scl_imagenet", dataset=["imagenet100", "imagenet2012"], projection=HEADS),
            ],
            "small": [small(loss=["scl"], projection=HEADS)],
        },
        {
            "scl_cifar": ["probe"],
            "scl_imagenet": ["probe --epochs=90 --learning_rate={rate} --decay_epochs=30/60/80"],
            "small": ["probe --epochs=30 --learning_rate=1 --decay_epochs=18/22/27"],
        },
    ),
    "transfer": Study(
        "Table 4: frozen features on other data sets",
        {"paper": CLASSIFIERS, "small": [small(dataset=["cifar100"], loss=LOSSES)]},
        {
            "": ["transfer"],
            "small": [f"{TRANSFER} --penalties=12 --datasets={{others}}"],
        },
    ),
    "robustness": Study(
        "Table 5: errors on corrupted images; other images told apart, calibration, retrieval",
        {"paper": CLASSIFIERS, "small": [small(dataset=CIFAR, loss=LOSSES)]},
        {
            "": [ERRORS, "calibration", "retrieval"],
            "small": [ERRORS, "calibration", "retrieval", "ood --other {other_files}"],
        },
    ),
    "longtail": Study(
        "Table 6: long-tailed training sets",
        {"paper": [grid("longtail", **TAILS)], "small": [grid("small_longtail", **TAILS)]},
    ),
    "temperature": Study(
        "Tables 9 and 10, Figure 3: temperature by batch size",
        {
            "paper": [
                grid(
                    "cifar",
                    dataset=CIFAR,
                    loss=PROTOTYPE_LOSSES,
                    temperature=["0.07", OWN, *(f"0.{i}" for i in range(2, 10)), "1.0"],
                    batch_size=["32", "64", "128", "256", OWN, "1024", "2048"],
                )
            ],
            "small": [
                small(
                    dataset=["cifar10"],
                    loss=PROTOTYPE_LOSSES,
                    temperature=["0.07", "0.1", OWN, "0.5", "1.0"],
                    batch_size=["32", OWN, "512"],
                )
            ],
        },
    ),
    "batch": Study(
        "Table 11: batch sizes",
        {
            "paper": [grid("imagenet", batch_size=["2048", OWN, "8192"], loss=COMPARED)],
            "small": [small(dataset=["cifar100"], batch_size=["64", OWN, "256"], loss=COMPARED)],
        },
    ),
    "backbones": Study(
        "Table 12: backbones",
        {
            "paper": [grid("imagenet100", backbone=[OWN, "resnet101", "resnet152"], loss=COMPARED)],
            "small": [small(dataset=["cifar100"], width=["16", OWN, "48"], loss=COMPARED)],
        },
    ),
    "factorial": Study(
        "prototypes or instances as negatives, the anchor's own class among them or not",
        {
            "paper": [grid("cifar", dataset=CIFAR, loss=[*PROTOTYPE_LOSSES, "decoupled_normface"])],
            "small": [small(loss=[*PROTOTYPE_LOSSES, "decoupled_normface"])],
        },
    ),
    "embedding": Study(
        "features that can be negative, so that a simplex is in reach, beside the paper's",
        {"paper": [grid("cifar", **EMBEDDINGS)], "small": [small(**EMBEDDINGS)]},
        {
            "": ["transfer", "calibration", "retrieval"],
            "small": [
                f"{TRANSFER} --penalties=12 --datasets={{others}}",
                "retrieval",
                "ood --other {other_files}",
            ],
        },
    ),
    "coarse": Study(
        "trained on CIFAR-100's 20 superclasses: do the features still tell its 100 classes",
        {"paper": [grid("cifar", **COARSE)], "small": [small(**COARSE)]},
        {
            "": ["transfer --datasets=cifar100", "retrieval --labels=original"],
            "small": [
                f"{TRANSFER} --penalties=5 --datasets=cifar100",
                "retrieval --labels=original",
            ],
        },
    ),
}


def cells(study, profile, seeds, where):
    """{name: (recipe, {key: value})} of a study's training runs, seeds outermost.

    `where` {key: values}: cells with another value of a key are left out; "own" is the recipe's.
    """
    found = {}
    for recipe, axes in study.grids[profile]:
        for values in itertools.product(map(str, range(seeds)), *axes.values()):
            cell = dict(zip(["seed", *axes], values, strict=True))
            if all((cell.get(k, kept[0]) or "own") in kept for k, kept in where.items()):
                cell = {key: value for key, value in cell.items() if value is not OWN}
                seed = cell.pop("seed")
                name = ",".join([recipe, *map("=".join, cell.items()), f"seed={seed}"])
                found[name] = recipe, cell | {"seed": seed}
    return found


def words(args, cell):
    """What a command may name of a cell."""
    dataset = cell.get("dataset", "")
    others = [name for name in SMALL_SETS if name != dataset]
    return {
        "out": args.out,
        "data_dir": args.data_dir,
        "dataset": dataset,
        "others": ",".join(name for name in others if name in FEW_CLASSES),
        "other_files": " ".join(f"{args.data_dir}/{name}.npz" for name in others),
        "rate": "0.8" if dataset == "imagenet2012" else "2.0",
    }


def location(args, recipe, cell):
    """The --config of a cell."""
    items = [*map("=".join, cell.items()), *filter(None, [args.set])]
    if args.data_dir and not recipe.endswith("digits"):
        whole = "/whole" if recipe == "small_longtail" else ""
        items.append(f"data_dir={args.data_dir}{whole}")
    return f"configs/{recipe}.py:{','.join(items)}"


def measuring(python, line, workdir):
    """The Job of a command on a run; what it was last done with stands in COMMAND.done."""
    module, *flags = shlex.split(line)
    done = workdir / f"{module}.done"

    def result():
        return "done" if done.exists() and done.read_text() == line else None

    command = [python, "-m", f"hsproto.{module}", f"--workdir={workdir}", *flags]
    # The shell writes the mark only where the command succeeds.
    mark = f"{shlex.join(command)} && printf %s {shlex.quote(line)} > {shlex.quote(str(done))}"
    return Job(["sh", "-c", mark], workdir, result, log=f"{module}.txt")


def corrupting(args, python, recipe, cell):
    """The Job that makes the corrupted images of a cell's data set."""
    folder = args.out / "corrupted" / cell["dataset"]
    whole = {"dataset": cell["dataset"]}
    command = [python, "-m", "hsproto.corruptions", f"--config={location(args, recipe, whole)}"]
    command += [f"--out={folder}", f"--images={args.corrupted_images}"]
    return Job(command, folder, lambda: "done" if len(list(folder.glob("*.npy"))) == 16 else None)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("studies", nargs="*", metavar="STUDY")
    parser.add_argument("--list", action="store_true", help="name the studies and end")
    parser.add_argument("--profile", choices=("paper", "small"), default="paper")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--data_dir", default="", help="the place of the data, as in a config")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0..N-1 of each cell")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE,VALUE")
    parser.add_argument("--set", default="", metavar="KEY=VALUE,KEY=VALUE")
    parser.add_argument("--train-only", action="store_true", help="measure nothing")
    parser.add_argument("--corrupted_images", type=int, default=0, help="default: the test set's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--gpus", help="a GPU for each job, as 0,1; instead of --jobs")
    parser.add_argument("--launcher", default=shlex.join([interpreter(), "-m", "hsproto.train"]))
    parser.add_argument("--dry-run", action="store_true", help="print the commands and end")
    args = parser.parse_args()
    if args.list:
        for name, study in STUDIES.items():
            counts = [len(cells(study, profile, 1, {})) for profile in ("paper", "small")]
            print(f"{name:<12} {study.shows} (a seed: {counts[0]} runs, small {counts[1]})")
        return 0
    unknown = [name for name in args.studies if name not in STUDIES]
    if unknown or not args.studies:
        return usage(f"STUDY {unknown or ''} must be of: {', '.join(STUDIES)}")
    if not args.out or args.seeds < 1 or args.jobs < 1:
        return usage("--out is needed, and --seeds and --jobs are at least 1")
    if args.profile == "small" and not args.data_dir:
        return usage("--profile=small needs --data_dir, which launch/small_data.py fills")
    where = dict(item.partition("=")[::2] for item in args.where)
    where = {key: values.split(",") for key, values in where.items()}
    # Programs that differ in nothing but the run are compiled once.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.out / "compiled"))
    pool = Pool(args.gpus.split(",") if args.gpus else [None] * args.jobs)
    finished = [run(name, args, where, pool) for name in args.studies if not pool.stopping]
    return 0 if all(finished) and not pool.stopping else 1


def usage(message):
    print(f"hsproto: {message}; see {sys.argv[0]} --help", file=sys.stderr)
    return 2


def run(name, args, where, pool):
    """Trains and measures a study; whether all of it is finished."""
    study, python = STUDIES[name], interpreter()
    found = cells(study, args.profile, args.seeds, where)
    launcher = shlex.split(args.launcher)
    trainings = {
        cell_name: training(launcher, location(args, *cell), args.out / cell_name)
        for cell_name, cell in found.items()
    }
    others = [job.folder for job in trainings.values() if of_another_config(job)]
    if others:
        raise SystemExit(usage(f"{others[0]} holds a run of another --config, take another --out"))
    made, measured = {}, {}
    for cell_name, (recipe, cell) in () if args.train_only else found.items():
        for line in study.commands.get(recipe, study.commands.get("", [])):
            line = line.format(**words(args, cell))
            job = measuring(python, line, args.out / cell_name)
            measured[f"{cell_name} {job.log.removesuffix('.txt')}"] = job
            if line.startswith("robustness"):
                made[f"corrupted {cell['dataset']}"] = corrupting(args, python, recipe, cell)
    stages = (("runs", trainings), ("corrupted sets", made), ("measurements", measured))
    if args.dry_run:
        for job in (job for _, jobs in stages for job in jobs.values()):
            print(shlex.join(job.command) + ("" if job.result() is None else "  # finished"))
        return True
    for what, jobs in stages:
        if jobs and not pool.stopping:
            print(f"{name}: ", end="")
            pool.run(jobs, what)
    return all(job.result() is not None for _, jobs in stages for job in jobs.values())


if __name__ == "__main__":
    sys.exit(main())
