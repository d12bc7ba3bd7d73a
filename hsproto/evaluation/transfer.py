"""Transfer of a frozen encoder: its features under a linear classifier, on other data sets.

  hsproto transfer --workdir=runs/cifar100_nonl [--datasets=cifar10,dtd]
  hsproto transfer --workdir=runs/digits --source=folder --data_dir=DIR --datasets=NAME

The protocol of Kornblith et al. 2019, SimCLR and the paper: pictures with their short side resized
(bicubic) to what the network was trained on, the centre cut out, no augmentation; multinomial
logistic regression (one against the rest where images have several labels) by L-BFGS; its penalty
one of 45 between 1e-6 and 1e5, chosen on the validation part, which is the set's own or a fifth of
the training images; then fitted to both parts. Without --datasets the paper's eight sets, by TFDS.

A table of top-1, mean per class and 11-point mean average precision in per cent; in full in
WORKDIR/transfer.json, from which finished sets are not repeated. Other sets than the eight choose
the penalty by --metric. Features are what the network gives to its classifier or projection head.
Sets are taken with all their classes: where the run was trained on groups of those of its own set,
its set asks whether the features tell the classes within a group (`hsproto.data.class_lists`).
"""

import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from hsproto import cli
from hsproto import config as config_lib
from hsproto.data import decode, folder, loader
from hsproto.data import load as load_lib
from hsproto.data import tfds as tfds_lib
from hsproto.data.source import DataSpec, PictureSource, Source
from hsproto.errors import UserError
from hsproto.evaluation import logistic_regression, trained
from hsproto.evaluation.evaluator import Evaluator
from hsproto.parallel import mesh as mesh_lib
from hsproto.parallel import processes
from hsproto.runs.files import to_json, write_text
from hsproto.runs.progress import ItemProgress

METRICS = {
    "accuracy": "top-1",
    "accuracy_per_class": "per class",
    "average_precision": "mAP",
}
# The paper's eight sets by their TFDS names, with the metric that chooses the penalty.
DATASETS = {
    "food101": "accuracy",
    "cifar10": "accuracy",
    "cifar100": "accuracy",
    "cars196": "accuracy",
    "dtd": "accuracy",
    "oxford_iiit_pet": "accuracy_per_class",
    "oxford_flowers102": "accuracy_per_class",
    "voc/2007": "average_precision",
}
LARGEST, SMALLEST = 1e5, 1e-6


class ConcatSource(Source):
    """Sources one after the other, as squares for a network; the label of an image is its row.

    Attributes:
      targets: the labels of the sources, int [N], or [N, K] where images have several.
    """

    def __init__(self, sources: Sequence[Source], config: Any):
        self._sources, self._size, self._channels = sources, config.image_size, config.channels
        self._starts = np.cumsum([0, *map(len, sources)])
        self.labels = np.arange(self._starts[-1], dtype=np.int32)
        self.targets = np.concatenate([np.asarray(source.labels) for source in sources])
        self.class_names = sources[0].class_names

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        part = np.searchsorted(self._starts, i, side="right") - 1
        source, row = self._sources[part], int(i - self._starts[part])
        if isinstance(source, PictureSource):
            picture = source.picture(row)[0]
        else:
            pixels = source[row][0]
            picture = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
            picture = picture.convert("RGB" if self._channels == 3 else "L")
        return decode.center_square(picture, self._size, Image.Resampling.BICUBIC), i

    def check(self) -> None:
        for source in self._sources:
            source.check()


def open_set(
    config: Any, dataset: str, source: str, data_dir: str, metric: str
) -> dict[str, Source]:
    """Open a data set for the run of `config`: train, test and, where it has one, validation.

    Raises:
      UserError: as `load.read_splits`.
    """
    spec = DataSpec(
        source=source,
        dataset=dataset,
        data_dir=data_dir,
        image_size=config.image_size,
        channels=config.channels,
    )
    if source == "tfds":
        parts = tfds_lib.tfds_splits(spec, multilabel=metric == "average_precision")
        if "test" not in parts:
            parts["test"] = parts.pop("validation")
        return parts
    if metric == "average_precision":
        raise UserError("--metric=average_precision is for sets of several labels, of source=tfds")
    if source not in config_lib.PICTURE_SOURCES:
        # Any: they are converted and resized here.
        return load_lib.read_splits(dataclasses.replace(spec, channels=0, image_size=0))._asdict()
    validation = folder.load_validation(spec)
    parts = load_lib.read_splits(spec)._asdict()
    return parts | ({"validation": validation} if validation else {})


def validation_rows(parts, seed=0):
    """bool [N] of the training rows, the validation part's behind them: its own, or a fifth."""
    count = len(parts["train"])
    if "validation" in parts:
        return np.arange(count + len(parts["validation"])) >= count
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = np.zeros(count, bool)
    chosen[generator.permutation(count)[: max(1, count // 5)]] = True
    return chosen


def transfer_to(evaluator, variables, config, parts, mesh, metric, num_penalties=45, say=print):
    """The results of one data set, as transfer.json holds them; `parts` are those of `open_set`.

    `evaluator` and `variables` are those of the run whose resolved config is `config`.
    """
    begin = time.perf_counter()
    pool = ConcatSource([parts[name] for name in ("train", "validation") if name in parts], config)
    tested = ConcatSource([parts["test"]], config)
    embedded, targets = _embed(evaluator, variables, pool, config, mesh, say, "training images")
    test, test_targets = _embed(evaluator, variables, tested, config, mesh, say, "test images")
    held_out = np.zeros(len(embedded.where), bool)
    held_out[embedded.where] = validation_rows(parts)[embedded.labels[embedded.where]]

    num_classes = len(pool.class_names)
    problem = logistic_regression.LogisticRegression(
        embedded.features, targets, num_classes, embedded.where, mesh
    )
    gather = jax.jit(logistic_regression.scores, out_shardings=mesh_lib.replicated(mesh))
    penalties = np.geomspace(LARGEST, SMALLEST, num_penalties)
    progress = ItemProgress(num_penalties, "penalties", say)
    solution, best, found = None, 0, []
    # From the largest, where the solution is near zero, each from that of the one before.
    for number, penalty in enumerate(penalties):
        solution = problem.fit(embedded.where & ~held_out, penalty, solution)
        scores = np.asarray(gather(embedded.features, solution))[held_out]
        found.append(measure(scores, targets[held_out])[metric])
        if number == 0 or found[-1] > found[best]:
            best, chosen = number, solution
        progress.at(number + 1)
    final = problem.fit(embedded.where, penalties[best], chosen)
    scores = np.asarray(gather(test.features, final))[test.where]
    return {
        **measure(scores, test_targets[test.where]),
        "chosen_by": metric,
        "penalty": penalties[best],
        "penalties": penalties.tolist(),
        "validation": found,
        "iterations": final.iterations,
        "converged": final.converged,
        "classes": num_classes,
        "train_images": len(pool),
        "validation_images": int(held_out.sum()),
        "test_images": len(tested),
        "seconds": time.perf_counter() - begin,
    }


def measure(scores, targets):
    """The METRICS of scores [N, K], shares in 0..1; those that do not go with the targets are NaN.

    Targets are labels [N], or [N, K] of 1 (in the class), 0 and -1 (does not count).
    """
    if targets.ndim == 2:
        each = [average_precision(*column) for column in zip(scores.T, targets.T, strict=True)]
        defined = [value for value in each if not math.isnan(value)]
        mean = float(np.mean(defined)) if defined else math.nan
        return dict.fromkeys(METRICS, math.nan) | {"average_precision": mean}
    right = scores.argmax(axis=1) == targets
    by_class = [right[targets == label].mean() for label in np.unique(targets)]
    return {
        "accuracy": float(right.mean()),
        "accuracy_per_class": float(np.mean(by_class)),
        "average_precision": math.nan,
    }


def average_precision(scores, targets):
    """Interpolated average precision at recalls 0, 0.1 ... 1 of one class, as of PASCAL VOC 2007.

    AP = 1/11 Σ_r max precision where recall >= r, 0 where it is never reached. Scores [N] from high
    to low; targets [N] are 1, 0, or -1 where an image does not count. NaN where none is 1.
    """
    order = np.argsort(-scores, kind="stable")
    positive = targets[order][targets[order] >= 0] == 1
    if not positive.any():
        return math.nan
    hits = np.cumsum(positive)
    precision = hits / np.arange(1, len(hits) + 1)
    # Recall in whole tenths: 3 of 10 are a recall of 0.3, whatever floating point makes of that.
    reached = [precision[10 * hits >= tenth * hits[-1]].max() for tenth in range(11)]
    return float(np.mean(reached))


def format_table(results):
    """{set: results} as text, in per cent."""
    width = max(len("mean"), *map(len, results))
    rows = [f"{'':<{width}}" + "".join(f"{name:>11}" for name in METRICS.values())]
    rows[0] += f"{'penalty':>10}{'train':>9}{'test':>8}"
    for name, found in results.items():
        rows.append(f"{name:<{width}}" + _cells(found[metric] for metric in METRICS))
        rows[-1] += f"{found['penalty']:>10.1e}{found['train_images']:>9}{found['test_images']:>8}"
        rows[-1] += "" if found["converged"] else "  not converged"
        if found["penalty"] in (found["penalties"][0], found["penalties"][-1]):
            rows[-1] += "  penalty at the end of its range"
    values = [
        found["average_precision" if found["accuracy"] is None else "accuracy"]
        for found in results.values()
    ]
    if len(values) > 1 and None not in values:
        rows.append(f"{'mean':<{width}}{_cells([np.mean(values)])}  of top-1 and mAP")
    return "\n".join(rows)


def _cells(values):
    return "".join(f"{'-' if v is None else format(100 * v, '.2f'):>11}" for v in values)


def _embed(evaluator, variables, rows, config, mesh, say, what):
    """(`Embedded` with rows as labels, the targets of its rows, 0 where it is padding)."""
    opened = loader.open_loader(rows, config, mesh)
    embedded = evaluator.embed_all(variables, _Watched(opened, say, what))
    targets = rows.targets[np.where(embedded.where, embedded.labels, 0)]
    targets[~embedded.where] = 0
    return embedded, targets


class _Watched:
    """A feed that tells how far it has been read."""

    def __init__(self, opened, say, what):
        self.source, self._feed, self._say, self._what = opened.source, opened, say, what

    def in_order(self, batch_size):
        progress = ItemProgress(len(self.source), self._what, self._say)
        for number, batch in enumerate(self._feed.in_order(batch_size), start=1):
            yield batch
            progress.at(min(number * batch_size, len(self.source)))


def _earlier(path):
    if not os.path.isfile(path):
        return {}
    with open(path) as file:
        try:
            return json.load(file)["datasets"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): remove it") from None


def main(argv):
    parser = cli.Parser(__doc__, prog="hsproto transfer")
    cli.add_run_flags(parser)
    parser.add_argument("--datasets", default=",".join(DATASETS), help="default: the paper's eight")
    parser.add_argument(
        "--source", default="tfds", choices=("tfds", "folder", "arrays", "digits"),
        help="where the sets are read from; default: tfds",
    )  # fmt: skip
    parser.add_argument("--data_dir", default="", help="the place of the data, as in a config")
    parser.add_argument("--metric", choices=METRICS, help="of other sets; default: accuracy")
    parser.add_argument("--penalties", type=int, default=45, help="how many; default: 45")
    processes.add_flags(parser)
    args = parser.parse_args(argv)
    if args.penalties < 1:
        parser.error(f"--penalties={args.penalties} must be at least 1")
    processes.join(args)
    mesh = mesh_lib.make_mesh()
    config, state, step = trained.load_state(args.workdir, mesh, args.checkpoint)
    mesh_lib.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
    path = os.path.join(args.workdir, "transfer.json")
    known = _earlier(path)

    # All are opened before any is worked on, so that what is missing is told at once.
    waiting, results = {}, {}
    for name in filter(None, args.datasets.split(",")):
        metric = args.metric or DATASETS.get(name, "accuracy")
        protocol = {"step": step, "source": args.source, "data_dir": args.data_dir}
        protocol |= {"metric": metric, "number_of_penalties": args.penalties}
        results[name] = known.get(name)
        if not results[name] or results[name]["protocol"] != protocol:
            parts = open_set(config, name, args.source, args.data_dir, metric)
            waiting[name] = parts, metric, protocol
    if not results:
        parser.error(f"--datasets={args.datasets!r} names no set")
    evaluator = Evaluator(config, None, mesh)
    with processes.exit_if_process_lost():
        for number, (name, (parts, metric, protocol)) in enumerate(waiting.items(), start=1):
            processes.log_main(f"{name} ({number}/{len(waiting)})")
            found = transfer_to(
                evaluator, state.variables, config, parts, mesh, metric, args.penalties,
                processes.log_main,
            )  # fmt: skip
            # As they are read again: what is undefined is null.
            results[name] = known[name] = json.loads(to_json(found | {"protocol": protocol}))
            if processes.is_main():
                write_text(path, to_json({"datasets": known}, indent=1))
    processes.log_main(
        f"{os.path.basename(os.path.normpath(args.workdir))}, step {step}, in per cent"
    )
    processes.log_main(format_table(results))
    return 0
