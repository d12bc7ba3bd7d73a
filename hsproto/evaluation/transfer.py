"""Transfer of a frozen encoder: its features under a linear classifier, on other data sets.

  hsproto transfer --workdir=runs/cifar100_nonl [--datasets=cifar10,dtd]
  hsproto transfer --workdir=runs/digits --source=folder --data_dir=DIR --datasets=NAME

The protocol of Kornblith et al. 2019, SimCLR and the paper: the short side of a picture is resized
(bicubic) to the image size of the network and the center cut out, without augmentation. Multinomial
logistic regression (one-vs-rest where images have several labels) is fitted by L-BFGS; its penalty,
one of 45 between 1e-6 and 1e5, is chosen on the validation part, which is the set's own or a fifth
of the training images; then it is fitted to both parts. Without --datasets: the paper's eight sets,
by TFDS.

Prints a table of top-1, mean per class and 11-point mean average precision in per cent, and writes
WORKDIR/transfer.json, of which finished sets are not repeated. Sets other than the eight choose the
penalty by --metric. Features are the input of the classifier or projection head. Sets are used with
all their classes: for a run on groups of classes, transfer to its own set asks whether the features
separate the classes within a group (`hsproto.data.class_lists`).
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from hsproto import cli
from hsproto import config as config_lib
from hsproto.data import decode, folder
from hsproto.data import load as load_lib
from hsproto.data import tfds as tfds_lib
from hsproto.data.source import DataSpec, PictureSource, Source
from hsproto.errors import UserError
from hsproto.evaluation import command, logistic_regression
from hsproto.evaluation.logistic_regression import LogisticRegression
from hsproto.evaluation.trained import TrainedRun
from hsproto.parallel import mesh as mesh_lib
from hsproto.parallel import processes
from hsproto.runs import measurements
from hsproto.runs.files import to_json
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
        source, row = self._sources[int(part)], int(i - self._starts[part])
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
) -> Mapping[str, Source]:
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


def validation_rows(parts: Mapping[str, Any], seed: int = 0) -> np.ndarray:
    """Return which rows of train and validation together choose the penalty, bool [N].

    Those of the validation part or, without one, a random fifth of the training images.
    """
    count = len(parts["train"])
    if "validation" in parts:
        return np.arange(count + len(parts["validation"])) >= count
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = np.zeros(count, bool)
    chosen[generator.permutation(count)[: max(1, count // 5)]] = True
    return chosen


def transfer_to(
    run: TrainedRun,
    parts: Mapping[str, Source],
    metric: str,
    num_penalties: int = 45,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Fit a linear classifier of a data set to the features of a run, and test it.

    Args:
        parts: of the data set, as `open_set` returns them.
        metric: that chooses the penalty.

    Returns:
        The results, an entry of transfer.json.
    """
    begin = time.perf_counter()
    pool = [parts[name] for name in ("train", "validation") if name in parts]
    train = _embed(run, pool, log, "training images")
    test = _embed(run, [parts["test"]], log, "test images")
    held_out = np.zeros(len(train.where), bool)
    held_out[train.where] = validation_rows(parts)[train.rows[train.where]]

    num_classes = len(parts["train"].class_names)
    problem = LogisticRegression(train.features, train.targets, num_classes, train.where, run.mesh)
    score = jax.jit(logistic_regression.scores, out_shardings=mesh_lib.replicated(run.mesh))

    def measure_on(embedded, where, solution):
        return measure(
            np.asarray(score(embedded.features, solution))[where], embedded.targets[where]
        )

    penalties = np.geomspace(LARGEST, SMALLEST, num_penalties)
    progress = ItemProgress(num_penalties, log, "penalties")
    solution, best, validation = None, 0, []
    # From the largest, where the solution is near zero, each from that of the one before.
    for number, penalty in enumerate(penalties):
        solution = problem.fit(train.where & ~held_out, penalty, solution)
        validation.append(measure_on(train, held_out, solution)[metric])
        if number == 0 or validation[-1] > validation[best]:
            best, best_solution = number, solution
        progress.update(number + 1)
    final = problem.fit(train.where, penalties[best], best_solution)
    return {
        **measure_on(test, test.where, final),
        "chosen_by": metric,
        "penalty": penalties[best],
        "penalties": penalties.tolist(),
        "validation": validation,
        "iterations": final.iterations,
        "converged": final.converged,
        "classes": num_classes,
        "train_images": sum(map(len, pool)),
        "validation_images": int(held_out.sum()),
        "test_images": len(parts["test"]),
        "seconds": time.perf_counter() - begin,
    }


class _Rows(NamedTuple):
    """Embedded images of a data set; `where` is False on padding, whose targets are 0."""

    features: jax.Array
    targets: np.ndarray
    rows: np.ndarray
    where: np.ndarray


def _embed(run, sources, log, items):
    source = ConcatSource(sources, run.config)
    embedded = run.embed(source, ItemProgress(len(source), log, items))
    targets = source.targets[np.where(embedded.where, embedded.labels, 0)]
    targets[~embedded.where] = 0
    return _Rows(embedded.features, targets, embedded.labels, embedded.where)


def measure(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return the METRICS of scores [N, K], shares in 0..1; NaN for those that do not apply.

    Args:
        targets: labels [N], or [N, K] of 1 (in the class), 0 and -1 (does not count).
    """
    if targets.ndim == 2:
        by_class = [average_precision(*column) for column in zip(scores.T, targets.T, strict=True)]
        defined = [value for value in by_class if not math.isnan(value)]
        mean = float(np.mean(defined)) if defined else math.nan
        return dict.fromkeys(METRICS, math.nan) | {"average_precision": mean}
    correct = scores.argmax(axis=1) == targets
    by_class = [correct[targets == label].mean() for label in np.unique(targets)]
    return {
        "accuracy": float(correct.mean()),
        "accuracy_per_class": float(np.mean(by_class)),
        "average_precision": math.nan,
    }


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the interpolated average precision of one class, as of PASCAL VOC 2007.

    AP = 1/11 Σ_r max precision where recall >= r, over r = 0, 0.1 ... 1.

    Images of equal score are taken together, as no threshold divides them.

    Args:
        scores: [N], of any order.
        targets: [N] of 1, 0, or -1 where an image does not count. Without a 1, AP is NaN.
    """
    counted = targets >= 0
    scores, positive = scores[counted], targets[counted] == 1
    if not positive.any():
        return math.nan
    order = np.argsort(-scores, kind="stable")
    last_of_equal = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(positive[order])[last_of_equal]
    precision = hits / np.arange(1, len(order) + 1)[last_of_equal]
    # Recall in whole tenths: 3 of 10 are a recall of 0.3, whatever floating point makes of that.
    best = [precision[10 * hits >= tenth * hits[-1]].max() for tenth in range(11)]
    return float(np.mean(best))


def format_table(results: dict[str, dict[str, Any]]) -> str:
    """Return {set: results} as text, in per cent."""
    width = max(len("mean"), *map(len, results))
    rows = [f"{'':<{width}}" + "".join(f"{name:>11}" for name in METRICS.values())]
    rows[0] += f"{'penalty':>10}{'train':>9}{'test':>8}"
    for name, result in results.items():
        penalty, penalties = result["penalty"], result["penalties"]
        rows.append(f"{name:<{width}}" + _cells(result[metric] for metric in METRICS))
        rows[-1] += f"{penalty:>10.1e}{result['train_images']:>9}{result['test_images']:>8}"
        rows[-1] += "" if result["converged"] else "  not converged"
        if penalty in (penalties[0], penalties[-1]):
            rows[-1] += "  penalty at the end of its range"
    values = [
        result["average_precision" if result["accuracy"] is None else "accuracy"]
        for result in results.values()
    ]
    if len(values) > 1 and None not in values:
        rows.append(f"{'mean':<{width}}{_cells([np.mean(values)])}  of top-1 and mAP")
    return "\n".join(rows)


def _cells(values):
    return "".join(f"{'-' if v is None else format(100 * v, '.2f'):>11}" for v in values)


# What a finished set has.
_RESULT = {*METRICS, "penalty", "penalties", "train_images", "test_images", "converged"}


def transfer(run: TrainedRun, args: Any) -> command.Results:
    """Transfer a run to the data sets of the flags, but for those that are finished."""
    earlier = (measurements.read(args.workdir, "transfer") or {}).get("datasets", {})
    # All are opened before any is worked on, so that what is missing is reported at once.
    pending, results = {}, {}
    for name in filter(None, args.datasets.split(",")):
        metric = args.metric or DATASETS.get(name, "accuracy")
        protocol = {"step": run.step, "source": args.source, "data_dir": args.data_dir}
        protocol |= {"metric": metric, "number_of_penalties": args.penalties}
        results[name] = earlier.get(name, {})
        if results[name].get("protocol") != protocol or not _RESULT <= set(results[name]):
            parts = open_set(run.config, name, args.source, args.data_dir, metric)
            pending[name] = parts, protocol
    for number, (name, (parts, protocol)) in enumerate(pending.items(), start=1):
        processes.log_main(f"{name} ({number}/{len(pending)})")
        result = transfer_to(run, parts, protocol["metric"], args.penalties, processes.log_main)
        # As they are read again: what is undefined is null.
        results[name] = earlier[name] = json.loads(to_json(result | {"protocol": protocol}))
        command.write_results(args.workdir, "transfer", {"datasets": earlier})
    title = f"{command.run_name(args.workdir)}, step {run.step}, in per cent"
    return command.Results({"datasets": earlier}, f"{title}\n{format_table(results)}")


def main(argv: list[str]) -> int:
    parser = command.make_parser(__doc__, "transfer", reads_data=False)
    parser.add_argument("--datasets", default=",".join(DATASETS), help="default: the paper's eight")
    parser.add_argument(
        "--source", default="tfds", choices=("tfds", "folder", "arrays", "digits"),
        help="how the sets are stored; default: tfds",
    )  # fmt: skip
    parser.add_argument(
        "--data_dir", type=cli.local_path, default="", help="location of the sets, as in a config"
    )
    parser.add_argument("--metric", choices=METRICS, help="of other sets; default: accuracy")
    parser.add_argument("--penalties", type=int, default=45, help="how many; default: 45")
    args = parser.parse_args(argv)
    if args.penalties < 1:
        parser.error(f"--penalties={args.penalties} must be at least 1")
    if not args.datasets.strip(","):
        parser.error(f"--datasets={args.datasets!r} names no set")
    return command.run("transfer", args, transfer, images=True)
