#!/usr/bin/env python3
"""The paper's tables and figures as runs, at its own scale or at a desk's.

  launch/paper.py --list
  launch/paper.py accuracy longtail --profile=small --data_dir=SMALL --out=runs/paper [--jobs=2]
  hsproto report runs/paper --out=report

A study is a grid of training runs and the commands that measure them. All studies share --out:
what one has finished no other repeats, and the same command goes on where it was stopped. Every run
has a workdir OUT/RECIPE,key=value,... with its output in log.txt, that of a command on it in
COMMAND.txt.

--profile=paper takes the recipes of the paper's protocols (GPUs): --data_dir holds the prepared
TFDS sets (default: TFDS's own folder) and, as folders of images, imagenet100 and imagenet2012.
--profile=small takes configs/small.py (a CPU; data by launch/small_data.py). --corrupted is where
published corrupted sets lie, by data set (imagenet2012, cifar10); those that are not there are
made, but for ImageNet's.
--where keeps some of the cells (dataset=cifar10,cifar100; `own` stands for a recipe's own value:
batch_size=own,512), --set changes all of them (epochs=200,dtype=bfloat16). --launcher and --gpus
are those of launch/sweep.py.
Status: 0 when all is finished, 2 for a mistake in the flags, else 1.
"""

import argparse
import itertools
import json
import os
import pathlib
import shlex
import sys
from typing import NamedTuple

from interpreter import interpreter
from jobs import Job, add_flags, of_another_config, pool_of, training, usage

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
    grid("imagenet100", dataset=["imagenet100"], loss=LOSSES),
    grid("imagenet", dataset=["imagenet2012"], loss=LOSSES),
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
ERRORS = "robustness --corrupted={corrupted}"

STUDIES = {
    "accuracy": Study(
        "Tables 1 and 3: accuracy and geometry of all losses. Table 7, Figure 2: its convergence",
        {"paper": CLASSIFIERS, "small": [small(loss=LOSSES)]},
    ),
    "collapse": Study(
        "Table 7, Figure 2 on the embedded digits, where NONL collapses completely: all losses",
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
            "": ["transfer {tfds}"],
            "small": [f"{TRANSFER} --penalties=12 --datasets={{others}}"],
        },
    ),
    "robustness": Study(
        "Table 5: errors on corrupted images; other images told apart, calibration, retrieval",
        {"paper": CLASSIFIERS, "small": [small(dataset=CIFAR, loss=LOSSES)]},
        {
            "": [ERRORS, "calibration", "retrieval", "ood --other tfds:dtd"],
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
            "paper": [
                grid(
                    "imagenet",
                    dataset=["imagenet2012"],
                    batch_size=["2048", OWN, "8192"],
                    loss=COMPARED,
                )
            ],
            "small": [small(dataset=["cifar100"], batch_size=["64", OWN, "512"], loss=COMPARED)],
        },
    ),
    "backbones": Study(
        "Table 12: backbones",
        {
            "paper": [
                grid(
                    "imagenet100",
                    dataset=["imagenet100"],
                    backbone=[OWN, "resnet101", "resnet152"],
                    loss=COMPARED,
                )
            ],
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
            "": ["transfer {tfds}", "calibration", "retrieval"],
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
            "": ["transfer {tfds} --datasets=cifar100", "retrieval --labels=original"],
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
            if all((cell.get(k, "") or "own") in kept for k, kept in where.items()):
                cell = {key: value for key, value in cell.items() if value is not OWN}
                seed = cell.pop("seed")
                name = ",".join([recipe, *map("=".join, cell.items()), f"seed={seed}"])
                found[name] = recipe, cell | {"seed": seed}
    return found


def axes_of(study, profile):
    """The keys that a study's grids vary, the seed among them."""
    return {"seed"}.union(*(axes for _, axes in study.grids[profile]))


def corrupted_set(args, cell):
    """The folder of a data set's corrupted images: a published one where there is, else ours."""
    published = args.corrupted and args.corrupted / cell["dataset"]
    return (
        published if published and published.is_dir() else args.out / "corrupted" / cell["dataset"]
    )


def arguments(args, cell, line):
    """A command of a study as a list, what it names of a cell filled in."""
    dataset = cell.get("dataset", "")
    others = [name for name in SMALL_SETS if name != dataset]
    several = {
        "{other_files}": [f"{args.data_dir}/{name}.npz" for name in others],
        "{tfds}": [f"--data_dir={args.data_dir}"] if args.data_dir else [],
    }
    words = {
        "data_dir": args.data_dir,
        "corrupted": corrupted_set(args, cell) if dataset else "",
        "others": ",".join(name for name in others if name in FEW_CLASSES),
        "rate": "0.8" if dataset == "imagenet2012" else "2.0",
    }
    found = []
    for word in line.split():
        found += several.get(word) or ([] if word in several else [word.format(**words)])
    return found


def location(args, recipe, cell):
    """The --config of a cell."""
    items = [*map("=".join, cell.items()), *filter(None, [args.set])]
    if args.data_dir and not recipe.endswith("digits"):
        whole = "/whole" if recipe == "small_longtail" else ""
        items.append(f"data_dir={args.data_dir}{whole}")
    return f"configs/{recipe}.py:{','.join(items)}"


def measuring(python, command, workdir):
    """The Job of a command on a finished run; COMMAND.done tells with what, and of which step."""
    module, *flags = command
    done = workdir / f"{module}.done"
    line = f"{shlex.join(command)} at step {final_step(workdir)}"

    def result():
        return "done" if done.exists() and done.read_text() == line else None

    full = [python, "-m", "hsproto", module, f"--workdir={workdir}", *flags]
    # The shell writes the mark only where the command succeeds.
    mark = f"{shlex.join(full)} && printf %s {shlex.quote(line)} > {shlex.quote(str(done))}"
    return Job(["sh", "-c", mark], workdir, result, log=f"{module}.txt")


def final_step(workdir):
    try:
        return json.loads((workdir / "summary.json").read_text())["step"]
    except (OSError, ValueError, KeyError):
        return None


def corrupting(args, python, recipe, cell):
    """The Job that makes the corrupted images of a cell's data set."""
    folder = corrupted_set(args, cell)
    whole = {"dataset": cell["dataset"]}
    command = [python, "-m", "hsproto", "corruptions", f"--config={location(args, recipe, whole)}"]
    command += [f"--out={folder}", f"--images={args.corrupted_images}"]

    def result():
        try:
            images = json.loads((folder / "generated.json").read_text())["images"]
        except (OSError, ValueError, KeyError):
            return None
        # With another number of images the command says that the folder holds others.
        whole = len(list(folder.glob("*.npy"))) == 16
        return "done" if whole and args.corrupted_images in (0, images) else None

    return Job(command, folder, result)


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
    parser.add_argument("--corrupted", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--corrupted_images", type=int, default=0, help="default: the test set's")
    add_flags(parser)
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
    changed = {item.partition("=")[0] for item in args.set.split(",") if item}
    for name in args.studies:
        axes = axes_of(STUDIES[name], args.profile)
        if unknown := sorted(set(where) - axes):
            return usage(f"--where {unknown[0]}: the axes of {name} are {', '.join(sorted(axes))}")
        if taken := sorted(changed & axes):
            return usage(f"--set {taken[0]} is an axis of {name}: --where chooses its values")
        if not cells(STUDIES[name], args.profile, args.seeds, where):
            return usage(f"--where {' '.join(args.where)} leaves no cell of {name}")
    # Programs that differ in nothing but the run are compiled once.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.out / "compiled"))
    pool = pool_of(args)
    finished = [run(name, args, where, pool) for name in args.studies if not pool.stopping]
    return 0 if all(finished) and not pool.stopping else 1


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
    if args.dry_run:
        made, measured = measurements(args, python, study, found)
        for job in (job for jobs in (trainings, made, measured) for job in jobs.values()):
            print(shlex.join(job.command) + ("" if job.result() is None else "  # finished"))
        return True
    print(f"{name}: ", end="")
    pool.run(trainings, "runs")
    trained = {cell: found[cell] for cell, job in trainings.items() if job.result() is not None}
    stages = () if args.train_only else measurements(args, python, study, trained)
    for what, jobs in zip(("corrupted sets", "measurements"), stages, strict=False):
        if jobs and not pool.stopping:
            print(f"{name}: ", end="")
            pool.run(jobs, what)
    jobs = [*trainings.values(), *(job for stage in stages for job in stage.values())]
    return all(job.result() is not None for job in jobs)


def measurements(args, python, study, found):
    """({name: Job that makes a corrupted set}, {name: Job that measures a run})."""
    made, measured = {}, {}
    for name, (recipe, cell) in found.items():
        for line in study.commands.get(recipe, study.commands.get("", [])):
            if line == ERRORS and not corrupted_set(args, cell).is_dir():
                if recipe.startswith("imagenet"):
                    print(f"{name}: no robustness, --corrupted holds no {cell['dataset']}")
                    continue
            if line == ERRORS and args.out in corrupted_set(args, cell).parents:
                made[f"corrupted {cell['dataset']}"] = corrupting(args, python, recipe, cell)
            job = measuring(python, arguments(args, cell, line), args.out / name)
            measured[f"{name} {job.log.removesuffix('.txt')}"] = job
    return made, measured


if __name__ == "__main__":
    sys.exit(main())
