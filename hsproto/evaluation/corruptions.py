"""Corrupted versions of a test set that has none, for hsproto robustness.

  hsproto corruptions --config=configs/cifar.py:dataset=cifar100,... --out=DIR

Writes the 15 corruptions of Hendrycks & Dietterich (2019) at five severities in CIFAR-C's layout:
DIR/<corruption>.npy, uint8 [5 N, S, S, C] with S = image_size, and DIR/labels.npy. The package
imagecorruptions-imaug (pip install 'hsproto[corruptions]') applies ImageNet-C's strengths, which
were chosen for 224 px: at 32 px they are stronger than those of the published CIFAR-C, and errors
cannot be compared with errors on CIFAR-C. One set serves all runs on a data set.

Images are center squares of the test set, corrupted after the crop, as ImageNet-C's were. Those
below 32 px are corrupted inside a mirrored frame of 32 px; of the corrupted RGB version of a gray
image the green plane is kept. The noise of an image depends only on --seed, corruption, severity
and its index. A corruption whose file exists is not made again.
"""

import functools
import multiprocessing
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from hsproto import cli
from hsproto.data import load as load_lib
from hsproto.data.source import Source, data_spec
from hsproto.errors import UserError
from hsproto.evaluation.robustness import CORRUPTIONS, SEVERITIES
from hsproto.runs import reading
from hsproto.runs.files import to_json, write_atomically, write_text
from hsproto.runs.progress import ItemProgress

_LEAST_SIDE = 32  # below, the package refuses
_ROWS = 100  # images per task of a worker process


def corrupt(image: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupt an image, uint8 [S, S, C] with C 1 or 3; the result has the same shape.

    Args:
        name: of the corruption.
        severity: in 1..5.
        seed: of the noise, in 0..2³²-1.

    Raises:
        UserError: imagecorruptions-imaug is missing.
    """
    package = _package()
    side, channels = image.shape[0], image.shape[2]
    before = max(0, (_LEAST_SIDE - side) // 2)
    after = max(0, _LEAST_SIDE - side - before)
    framed = np.pad(image, ((before, after), (before, after), (0, 0)), mode="symmetric")
    framed = np.ascontiguousarray(np.broadcast_to(framed, (*framed.shape[:2], 3)))
    # Most corruptions draw from NumPy's global generator, two have one of their own.
    np.random.seed(seed)
    own = {"seed": seed} if name in ("glass_blur", "impulse_noise") else {}
    corrupted = package.corrupt(framed, severity=severity, corruption_name=name, **own)
    corrupted = corrupted[before : before + side, before : before + side]
    return corrupted if channels == 3 else corrupted[..., 1:2]


def generate(
    source: Source,
    size: int,
    out: str,
    *,
    names: Sequence[str] = CORRUPTIONS,
    rows: np.ndarray | None = None,
    seed: int = 0,
    workers: int = 0,
    log: Callable[[str], None] = print,
) -> None:
    """Write the corrupted images of a source into the folder `out`, in CIFAR-C's layout.

    Args:
        size: side of the squares that are cut out of the images of the source.
        names: of the corruptions.
        rows: int [N], the images to take; None: all.
        workers: number of processes; 0: this one.
    """
    _package()
    rows = np.arange(len(source)) if rows is None else rows
    os.makedirs(out, exist_ok=True)
    labels = np.tile(source.labels[rows], SEVERITIES)
    _write_blocks(os.path.join(out, "labels.npy"), [labels.astype(np.int32)], len(labels))
    left = [name for name in names if not os.path.exists(os.path.join(out, f"{name}.npy"))]
    # Spawned: a forked process would inherit the state of threads, of JAX's for one.
    pool = workers and ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _open_in_worker, (source, size)
    )
    run = pool.map if pool else map
    work = _corrupt_in_worker if pool else functools.partial(_corrupt_rows, source, size)
    progress = ItemProgress(len(left), log, seconds_between=0)
    try:
        for done, name in enumerate(left, start=1):
            tasks = [
                (name, severity + 1, rows[i : i + _ROWS], seed)
                for severity in range(SEVERITIES)
                for i in range(0, len(rows), _ROWS)
            ]
            _write_blocks(os.path.join(out, f"{name}.npy"), run(work, tasks), len(labels))
            progress.update(done, f"{name}  {len(labels)} images")
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _package():
    try:
        import imagecorruptions
    except ImportError as error:
        raise UserError(
            "corrupted images are made by imagecorruptions-imaug, which cannot be imported "
            f"({error}): pip install 'hsproto[corruptions]'"
        ) from error
    return imagecorruptions


def _corrupt_rows(source, size, task):
    name, severity, rows, seed = task
    images = []
    for row in rows:
        image = source[int(row)][0]
        margin = round((image.shape[0] - size) / 2)
        square = image[margin : margin + size, margin : margin + size]
        words = np.random.SeedSequence([seed, zlib.crc32(name.encode()), severity, int(row)])
        images.append(corrupt(square, name, severity, int(words.generate_state(1)[0])))
    return np.stack(images)


def _open_in_worker(source, size):
    global _opened
    _opened = source, size


def _corrupt_in_worker(task):
    return _corrupt_rows(*_opened, task)


def _write_blocks(path, blocks, count):
    """Write an npy file of `count` rows from blocks of them."""

    def write(temporary):
        file, start = None, 0
        for block in blocks:
            if file is None:
                shape = (count, *block.shape[1:])
                file = np.lib.format.open_memmap(temporary, "w+", block.dtype, shape)
            file[start : start + len(block)] = block
            start += len(block)
        file.flush()

    write_atomically(path, write)


def _check_same(path, settings):
    """Raise UserError where the folder holds images that were made with other settings."""
    if not os.path.lexists(path):
        return
    earlier = reading.read_json(path, reading.Object())
    for key, value in settings.items():
        if earlier.get(key) != value:
            raise UserError(
                f"{path}: the images there were made with {key}={earlier.get(key)!r}, now it is "
                f"{value!r}: take another --out"
            )


def main(argv: list[str]) -> int:
    parser = cli.Parser(__doc__, prog="hsproto corruptions")
    parser.add_argument(
        "--out", type=cli.local_path, required=True, metavar="DIR", help="the folder to write"
    )
    parser.add_argument("--corruptions", metavar="NAME,...", help="default: all 15")
    parser.add_argument("--images", type=int, default=0, help="evenly spread; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes; default: this one")
    args, config = parser.parse_with_config(argv)
    names = args.corruptions.split(",") if args.corruptions else CORRUPTIONS
    for name in names:
        if name not in CORRUPTIONS:
            parser.error(f"--corruptions={args.corruptions}: {name!r} must be one of {CORRUPTIONS}")
    if min(args.images, args.workers, args.seed) < 0:
        parser.error("--images, --workers and --seed must not be negative")
    _package()
    source = load_lib.load_splits(config).test
    count = min(args.images or len(source), len(source))
    rows = np.linspace(0, len(source) - 1, count).round().astype(int)
    settings = {key: config[key] for key in ("source", "dataset", "image_size", "channels")}
    settings |= {"load_size": data_spec(config).side, "images": count, "seed": args.seed}
    path = os.path.join(args.out, "generated.json")
    _check_same(path, settings)
    os.makedirs(args.out, exist_ok=True)
    write_text(path, to_json(settings, indent=1))
    generate(
        source,
        config.image_size,
        args.out,
        names=names,
        rows=rows,
        seed=args.seed,
        workers=args.workers,
    )
    print(os.path.abspath(args.out))
    return 0
