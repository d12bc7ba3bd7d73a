#!/usr/bin/env python3
"""Run the studies behind the paper's tables and figures, at its own scale or on a laptop.

  launch/paper.py --list
  launch/paper.py --verify=docs/results
  launch/paper.py accuracy longtail --profile=small --data_dir=SMALL --out=runs/paper [--jobs=2]
  hsproto report runs/paper --out=report

A study is a grid of training runs and the commands that measure them. Studies share --out, which
one command uses at a time: none repeats what another has finished, and the same command continues a
stopped study. Each run has a workdir OUT/RECIPE,key=value,... with its output in log.txt and that
of its commands in COMMAND.txt.

--profile=paper uses the recipes of the paper's protocols (GPUs): --data_dir holds the prepared TFDS
sets (default: TFDS's own folder) and, as folders of images, imagenet100 and imagenet2012.
--profile=small uses configs/small.py (a CPU; data by launch/small_data.py). --corrupted holds
published corrupted sets by data set (imagenet2012, cifar10); missing ones are generated, except for
ImageNet's.
--verify recomputes tables, intervals and verdicts of launch/results.py's studies from the records
beside them and names every difference.
--where selects cells (dataset=cifar10,cifar100; `own` stands for a recipe's own value:
batch_size=own,512), --set changes all of them (epochs=200,dtype=bfloat16). --launcher and --gpus
are those of launch/sweep.py.
Exit status: 0 if all is finished, 2 for a mistake in the flags, else 1.
"""

import contextlib
import itertools
import os
import pathlib
import shlex
import sys
from typing import NamedTuple

from interpreter import interpreter
from jobs import (
    Job,
    add_flags,
    check_same_config,
    flags_mistake,
    make_parser,
    make_pool,
    owned,
    read_value,
    training_job,
    usage,
)
from small_data import SMALL_SETS
from verify import verify

LOSSES = "cross_entropy dot_regression normface ntce nonl decoupled_normface".split()
FEW_CLASSES = "cifar10 fashion_mnist".split()
# A value of an axis: the recipe's own, which gives the same run as in studies without that axis.
OWN = None


class Study(NamedTuple):
    """Training runs and the commands that measure them.

    Attributes:
        shows: The paper's tables that it reproduces.
        grids: Per profile a list of (recipe, axes); cells are all combinations of the axes' values.
        commands: Per recipe, "" for all others, the commands that measure each run; `arguments`
            fills in their placeholders.
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
        "Table 5: errors on corrupted images; OOD detection, calibration, retrieval",
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
    """Return {name: (recipe, {key: value})} of a study's training runs, seeds outermost.

    `where` {key: values} selects the cells with these values; "own" is the recipe's.
    """
    selected = {}
    for recipe, axes in study.grids[profile]:
        for values in itertools.product(map(str, range(seeds)), *axes.values()):
            cell = dict(zip(["seed", *axes], values, strict=True))
            if all((cell.get(k, "") or "own") in chosen for k, chosen in where.items()):
                cell = {key: value for key, value in cell.items() if value is not OWN}
                seed = cell.pop("seed")
                name = ",".join([recipe, *map("=".join, cell.items()), f"seed={seed}"])
                selected[name] = recipe, cell | {"seed": seed}
    return selected


def axes_of(study, profile):
    """Return the keys that a study's grids vary, including the seed."""
    return {"seed"}.union(*(axes for _, axes in study.grids[profile]))


def corrupted_set(args, cell):
    """Return the folder of a data set's corrupted images: the published one if it exists."""
    published = args.corrupted and args.corrupted / cell["dataset"]
    if published and published.is_dir():
        return published
    return args.out / "corrupted" / cell["dataset"]


def arguments(args, cell, line):
    """Return a command of a study as a list, with its placeholders filled in for a cell."""
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
    command = []
    for word in line.split():
        command += several[word] if word in several else [word.format(**words)]
    return command


def location(args, recipe, cell):
    """Return the --config of a cell."""
    # Of --set and the cell the former counts, and a config takes no key twice.
    items = cell | dict(item.split("=", 1) for item in args.set.split(",") if "=" in item)
    if args.data_dir and not recipe.endswith("digits"):
        whole = "/whole" if recipe == "small_longtail" else ""
        items["data_dir"] = f"{args.data_dir}{whole}"
    return f"configs/{recipe}.py:{','.join(map('='.join, items.items()))}"


def measuring_job(python, command, workdir):
    """Return the job of a command on a finished run; COMMAND.done holds its flags and the step."""
    module, *flags = command
    done = workdir / f"{module}.done"
    line = f"{shlex.join(command)} at step {read_value(workdir / 'summary.json', 'step')}"

    def result():
        return "done" if done.exists() and done.read_text() == line else None

    full = [python, "-m", "hsproto", module, f"--workdir={workdir}", *flags]
    # The shell writes the mark only where the command succeeds.
    mark = f"{shlex.join(full)} && printf %s {shlex.quote(line)} > {shlex.quote(str(done))}"
    return Job(["sh", "-c", mark], workdir, result, log=f"{module}.txt")


def corrupting_job(args, python, recipe, cell):
    """Return the job that makes the corrupted images of a cell's data set."""
    folder = corrupted_set(args, cell)
    whole = {"dataset": cell["dataset"]}
    command = [python, "-m", "hsproto", "corruptions", f"--config={location(args, recipe, whole)}"]
    command += [f"--out={folder}", f"--images={args.corrupted_images}"]

    def result():
        images = read_value(folder / "generated.json", "images")
        # With another number of images the command itself rejects the folder.
        complete = len(list(folder.glob("*.npy"))) == 16
        same = images is not None and args.corrupted_images in (0, images)
        return "done" if complete and same else None

    return Job(command, folder, result)


def main():
    parser = make_parser(__doc__)
    parser.add_argument("studies", nargs="*", metavar="STUDY")
    parser.add_argument("--list", action="store_true", help="list the studies and exit")
    parser.add_argument("--verify", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--profile", choices=("paper", "small"), default="paper")
    parser.add_argument("--data_dir", default="", help="as in a config")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE,VALUE")
    parser.add_argument("--set", default="", metavar="KEY=VALUE,KEY=VALUE")
    parser.add_argument("--train-only", action="store_true", help="measure nothing")
    parser.add_argument("--corrupted", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--corrupted_images", type=int, default=0, help="default: the test set's")
    add_flags(parser, seeds=3)
    args = parser.parse_args()
    if args.list:
        for name, study in STUDIES.items():
            counts = [len(cells(study, profile, 1, {})) for profile in ("paper", "small")]
            print(f"{name:<12} {study.shows} ({counts[0]} runs per seed, small: {counts[1]})")
        return 0
    if args.verify:
        return verify(args.verify)
    unknown = [name for name in args.studies if name not in STUDIES]
    if unknown or not args.studies:
        return usage(f"STUDY {unknown or ''} must be one of: {', '.join(STUDIES)}")
    if mistake := flags_mistake(args):
        return usage(mistake)
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
    # Runs with the same programs compile them once.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.out / "compiled"))
    pool = make_pool(args)
    with contextlib.nullcontext() if args.dry_run else owned(args.out):
        finished = [run(name, args, where, pool) for name in args.studies if not pool.stopping]
    return 0 if all(finished) and not pool.stopping else 1


def run(name, args, where, pool):
    """Train and measure a study; return whether all of it is finished."""
    study, python = STUDIES[name], interpreter()
    runs = cells(study, args.profile, args.seeds, where)
    trainings = {
        run_name: training_job(args.launcher, location(args, *cell), args.out / run_name)
        for run_name, cell in runs.items()
    }
    check_same_config(trainings.values())
    if args.dry_run:
        for jobs in (trainings, *measurements(args, python, study, runs)):
            for job in jobs.values():
                print(job.describe())
        return True
    print(f"{name}: ", end="")
    pool.run(trainings, "runs")
    trained = {
        run_name: runs[run_name] for run_name, job in trainings.items() if job.result() is not None
    }
    stages = () if args.train_only else measurements(args, python, study, trained)
    for what, jobs in zip(("corrupted sets", "measurements"), stages, strict=False):
        if jobs and not pool.stopping:
            print(f"{name}: ", end="")
            pool.run(jobs, what)
    jobs = [*trainings.values(), *(job for stage in stages for job in stage.values())]
    return all(job.result() is not None for job in jobs)


def measurements(args, python, study, runs):
    """Return the jobs that make corrupted sets and those that measure runs, by name."""
    corruptions, measured = {}, {}
    for name, (recipe, cell) in runs.items():
        for line in study.commands.get(recipe, study.commands.get("", [])):
            if line == ERRORS and not corrupted_set(args, cell).is_dir():
                if recipe.startswith("imagenet"):
                    print(f"{name}: no robustness, --corrupted holds no {cell['dataset']}")
                    continue
            if line == ERRORS and args.out in corrupted_set(args, cell).parents:
                corruptions[f"corrupted {cell['dataset']}"] = corrupting_job(
                    args, python, recipe, cell
                )
            job = measuring_job(python, arguments(args, cell, line), args.out / name)
            measured[f"{name} {job.log.removesuffix('.txt')}"] = job
    return corruptions, measured


if __name__ == "__main__":
    sys.exit(main())
