"""Classify image files with a trained run: the nearest prototypes and their cosines.

  hsproto predict --workdir=runs/digits one.png folder --csv=found.csv --reject=0.5

One line per image: its path, then the likeliest classes, each with the cosine between the image's
embedding and the class's prototype (1: the same direction). Of a folder all image files below it.
Files are read as training reads them. What cannot be read is told and passed over; the status is 2
then. A run on features takes files of features and numbers their rows.

--csv writes a table in place of the lines: path, class, cosine, rejected, and class_2, cosine_2 and
so on up to --top. With --reject an image below this cosine to its likeliest class is marked as
rejected: it may be of none of the classes.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["predict", *sys.argv[1:]])

import argparse
import contextlib
import csv
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hsproto import inference
from hsproto.data import intake
from hsproto.data.source import data_spec
from hsproto.errors import UserError, visible
from hsproto.runs.files import replaced
from hsproto.runs.predictions_file import NO_CLASS
from hsproto.runs.progress import ItemProgress


class Answer(NamedTuple):
    """What is found of an image: names and cosines of classes, the likeliest first."""

    path: str
    names: list[str]
    cosines: np.ndarray
    rejected: bool


def main(argv: list[str]) -> int:
    parser = cli.Parser(__doc__, prog="hsproto predict")
    cli.add_run_flags(parser)
    parser.add_argument("--top", type=int, help="classes to show (default 3, in a table 1)")
    parser.add_argument(
        "--csv", type=cli.local_path, metavar="FILE", help="write a table and print no lines"
    )
    parser.add_argument(
        "--reject", type=_cosine, metavar="COSINE", help="mark images below this cosine"
    )
    parser.add_argument(
        "images", type=cli.local_path, nargs="+", metavar="PATH", help="image files and folders"
    )
    args = parser.parse_args(argv)
    top = args.top if args.top is not None else 1 if args.csv else 3
    if top < 1:
        parser.error(f"--top={top} must be at least 1")
    run = inference.load(args.workdir, args.checkpoint)
    images = _named(args.images, data_spec(run.config))
    _keep_images(args.csv, args.images, images)
    top = min(top, len(run.class_names))
    with _output(args.csv, top) as show:
        failed = 0
        progress = ItemProgress(len(images), _tell, "images")
        # Blocks of one length: a program of its own is compiled for an image that is left alone.
        length = math.ceil(len(images) / math.ceil(len(images) / inference.BATCH_SIZE))
        for start in range(0, len(images), length):
            block = images[start : start + length]
            answers = list(_answers(run, block, top, args.reject))
            failed += len(block) - len(answers)
            for answer in answers:
                show(answer)
            progress.update(start + len(block))
    if failed:
        _tell(f"hsproto: {failed} of {len(images)} images could not be read")
    return 2 if failed else 0


def _named(paths: Sequence[str], spec: Any) -> list[tuple[str, Any]]:
    """Return (name, image) of all images, none of them read; features are numbered by file."""
    if spec.source != "features":
        return [(path, path) for path in intake.listed(paths, spec)]
    rows = [(path, enumerate(intake.listed(path, spec))) for path in paths]
    return [(f"{path}[{i}]", row) for path, of_file in rows for i, row in of_file]


def _keep_images(table, paths, images):
    """Refuse a table that would take the place of one of the images, or of a file of rows."""
    if not table or not os.path.exists(table):
        return
    for file in [*paths, *(image for _, image in images if isinstance(image, str))]:
        if os.path.exists(file) and os.path.samefile(file, table):
            raise UserError(f"--csv={table} is one of the images: name another file")


def _answers(
    run: inference.Run, images: Sequence[tuple[str, Any]], top: int, reject: float | None
) -> Iterator[Answer]:
    """Yield what is found of the images that can be read; tell of the others."""
    read = intake.read_all([image for _, image in images], data_spec(run.config))
    for image in read:
        if isinstance(image, UserError):
            _tell(visible(f"hsproto: {image}"))
    names = [name for name, _ in images]
    readable = [(n, i) for n, i in zip(names, read, strict=True) if not isinstance(i, UserError)]
    if not readable:
        return
    classes, cosines = run.rank(np.stack([image for _, image in readable]), top)
    for (path, _), row, values in zip(readable, classes, cosines, strict=True):
        none = np.isnan(values)  # of an embedding that is not finite
        rejected = bool(none[0] or (reject is not None and values[0] < reject))
        names = [
            NO_CLASS if missing else run.class_names[c]
            for c, missing in zip(row, none, strict=True)
        ]
        yield Answer(path, names, values, rejected)


@contextlib.contextmanager
def _output(path: str | None, top: int) -> Iterator[Callable[[Answer], Any]]:
    """Give a function that shows an answer: prints it, or writes it to a table."""
    if path is None:
        yield _print
        return
    encoding = {"encoding": "utf-8", "errors": "backslashreplace"}
    try:
        # A part of a table must not look like the whole.
        with replaced(path) as temporary, open(temporary, "w", newline="", **encoding) as file:
            table = csv.writer(file)
            more = [f"{what}_{k}" for k in range(2, top + 1) for what in ("class", "cosine")]
            table.writerow(["path", "class", "cosine", "rejected", *more])
            yield lambda answer: table.writerow(_row(answer))
    except OSError as error:
        raise UserError(f"--csv={path} cannot be written: {error.strerror}") from None


def _row(answer):
    pairs = [
        (name, f"{cosine:.6f}") for name, cosine in zip(answer.names, answer.cosines, strict=True)
    ]
    more = [cell for pair in pairs[1:] for cell in pair]
    return [answer.path, *pairs[0], str(answer.rejected).lower(), *more]


def _print(answer):
    pairs = zip(answer.names, answer.cosines, strict=True)
    found = "  ".join(f"{name} {cosine:+.3f}" for name, cosine in pairs)
    print(visible(f"{answer.path}: {found}{'  rejected' if answer.rejected else ''}"), flush=True)


def _tell(line):
    print(line, file=sys.stderr, flush=True)


def _cosine(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no cosine: give a number in -1..1")
    return value
