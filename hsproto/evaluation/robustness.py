"""Errors of a run on corrupted test images, and mCE: ImageNet-C, CIFAR-C, or generated ones.

  hsproto robustness --workdir=runs/NAME --corrupted=DIR [--layout=npy|folder]

Layouts, as published:

folder  ImageNet-C: DIR/<corruption>/<1..5>/<class>/*, or one folder deeper, e.g.
        DIR/noise/<corruption>/...; only the classes of the run are read, by name
npy     CIFAR-C: DIR/<corruption>.npy, uint8 [5 N, H, W(, C)], severity after severity, and
        labels.npy [5 N]; hsproto corruptions writes the same

Images are neither resized nor cropped. Errors are shares, 0..1; their mean is over the 15
corruptions of Hendrycks & Dietterich (2019). mCE, in per cent, divides errors by AlexNet's on
ImageNet-C, so it is given for that layout alone; published values are for all 1,000 classes.

Prints a table and writes WORKDIR/robustness.json, one entry per set. What it holds for the same set
and checkpoint is not measured again, so a run that was stopped resumes.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hsproto import cli
from hsproto.data import arrays
from hsproto.data.decode import center_square
from hsproto.data.folder import FolderSource, folder_source
from hsproto.data.listing import class_folders
from hsproto.data.source import Source, data_spec
from hsproto.errors import UserError, one_line
from hsproto.evaluation import command
from hsproto.evaluation.trained import TrainedRun
from hsproto.parallel import processes
from hsproto.runs import measurements
from hsproto.runs import summary as summary_lib
from hsproto.runs.progress import ItemProgress

# Mean top-1 error of AlexNet over the five severities of ImageNet-C (Hendrycks & Dietterich 2019).
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
CORRUPTIONS = tuple(ALEXNET_ERRORS)
SEVERITIES = 5


def corruption_errors(errors: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return CE_c = 100 E_c / A_c of each corruption, in per cent; A_c are AlexNet's errors.

    Args:
        errors: {name: top-1 errors at severities 1..5}, shares; E_c is their mean.
    """
    return {name: 100 * float(np.mean(e)) / ALEXNET_ERRORS[name] for name, e in errors.items()}


def mce(errors: Mapping[str, Sequence[float]]) -> float:
    """Return the mean of `corruption_errors` over the 15 corruptions, in per cent.

    NaN unless all 15 are given; others do not count.
    """
    if not set(CORRUPTIONS) <= set(errors):
        return float("nan")
    by_corruption = corruption_errors({name: errors[name] for name in CORRUPTIONS})
    return float(np.mean(list(by_corruption.values())))


class CorruptedSet:
    """The corrupted images in a folder.

    Attributes:
        names: of the corruptions.
        layout: "npy" or "folder".

    Raises:
        UserError: the folder holds no corruption in the layout.
    """

    def __init__(self, path: str, config: Any, class_names: Sequence[str], layout: str = "auto"):
        if not os.path.isdir(path):
            raise UserError(f"--corrupted={path}: no such folder")
        self.path, self._class_names = path, class_names
        # Corrupted images have the size that the network sees.
        self._spec = dataclasses.replace(data_spec(config), load_size=0)
        labels = os.path.join(path, "labels.npy")
        if layout == "auto":
            layout = "npy" if os.path.exists(labels) else "folder"
        self.layout = layout
        if layout == "npy":
            self._labels = _read_array(labels)
            stems = [name.removesuffix(".npy") for name in sorted(os.listdir(path))]
            files = {stem: os.path.join(path, f"{stem}.npy") for stem in stems if stem != "labels"}
            self._places = {stem: file for stem, file in files.items() if os.path.exists(file)}
        else:
            self._places = _corruption_folders(path)
        if not self._places:
            raise UserError(f"--corrupted={path}: no corruption there in the layout {layout!r}")
        self.names = tuple(self._places)

    def source(self, name: str, severity: int) -> Source:
        """Return the images of a corruption at a severity in 1..5."""
        place = self._places[name]
        if self.layout == "folder":
            folder = os.path.join(place, str(severity))
            return _folder_source(folder, self._class_names, self._spec)
        images = _read_array(place)
        if len(images) % SEVERITIES or self._labels.shape != (len(images),):
            raise UserError(
                f"{place} must hold five severities of images, and labels.npy one label per image; "
                f"got shapes {images.shape} and {self._labels.shape}"
            )
        count = len(images) // SEVERITIES
        rows = slice((severity - 1) * count, severity * count)
        return arrays.array_source(
            np.ascontiguousarray(images[rows]),
            self._labels[rows],
            self._class_names,
            place,
            self._spec,
        )


def measure_errors(
    run: TrainedRun,
    corrupted: CorruptedSet,
    names: Iterable[str],
    errors: dict[str, list[float]],
    save: Callable[[dict[str, list[float]]], None],
) -> dict[str, list[float]]:
    """Return the errors {name: [at severity 1, ... 5]} of a run on corruptions.

    Args:
        errors: those measured earlier, which are returned too.
        save: called with the errors so far when a corruption is done.
    """
    left = [name for name in names if name not in errors]
    progress = ItemProgress(len(left), processes.log_main, seconds_between=0)
    for done, name in enumerate(left, start=1):
        sources = (corrupted.source(name, severity + 1) for severity in range(SEVERITIES))
        errors = errors | {name: [run.error(run.embed(source)) for source in sources]}
        save(errors)
        progress.update(done, f"{name}  error {np.mean(errors[name]):.4f}")
    return errors


def summarize(errors: dict[str, list[float]], layout: str) -> dict[str, Any]:
    """Return the errors of a set with their means, and CE and mCE for the layout of ImageNet-C.

    The mean error is over those of the 15 standard corruptions that were measured, whose number is
    `counted`; over all others if none was.
    """
    standard = {name: errors[name] for name in CORRUPTIONS if name in errors}
    counted = standard or errors
    normalized = layout == "folder"
    return {
        "errors": errors,
        "mean_errors": {name: float(np.mean(e)) for name, e in errors.items()},
        "mean_error": float(np.mean(list(counted.values()))),
        "counted": len(counted),
        "corruption_errors": corruption_errors(standard) if normalized else None,
        "mce": mce(errors) if normalized else None,
    }


def format_table(result: dict[str, Any]) -> str:
    """Return the errors by corruption and severity as text, with means and, where defined, CE."""
    rows = [f"{'error':<20}{'mean':>9}" + "".join(f"{s + 1:>9}" for s in range(SEVERITIES))]
    rows[0] += f"{'CE %':>9}"
    for name, errors in result["errors"].items():
        ce = (result["corruption_errors"] or {}).get(name)
        cells = "".join(map(summary_lib.format_cell, (result["mean_errors"][name], *errors)))
        rows.append(f"{name:<20}{cells}{_per_cent(ce)}")
    rows.append(f"{'clean':<20}{summary_lib.format_cell(result['clean_error'])}")
    name = f"mean of {result['counted']}"
    rows.append(
        f"{name:<20}{summary_lib.format_cell(result['mean_error'])}"
        f"{'':>{9 * SEVERITIES}}{_per_cent(result['mce'])}"
    )
    if result["generated"]:
        rows.append("generated by hsproto corruptions, not a published set")
    return "\n".join(rows)


def _per_cent(value):
    return f"{'-':>9}" if value is None or not np.isfinite(value) else f"{value:>9.1f}"


def _corruption_folders(path):
    """{corruption: folder} of the folders that hold a folder "1", in `path` or one level below."""
    folders = {}
    for name in class_folders(path):
        folder = os.path.join(path, name)
        below = {inner: os.path.join(folder, inner) for inner in class_folders(folder)}
        folders |= {name: folder} if "1" in below else below
    return {name: f for name, f in folders.items() if os.path.isdir(os.path.join(f, "1"))}


def _folder_source(folder, class_names, spec):
    available = set(class_folders(folder) if os.path.isdir(folder) else ())
    missing = [name for name in class_names if name not in available]
    if missing:
        raise UserError(
            f"{folder} lacks class folders of the run: {', '.join(missing[:3])}"
            f"{' ...' if len(missing) > 3 else ''} ({len(missing)} of {len(class_names)})"
        )
    files = folder_source(pathlib.Path(folder), class_names, spec)
    source = ExactSizeFolder(files.paths, files.labels, class_names, spec)
    source[0]  # a wrong size is found here and not in a thread
    return source


class ExactSizeFolder(FolderSource):
    """Image files that must have the right size already."""

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        image, label = self.picture(i)
        size = self._spec.side
        if image.size != (size, size):
            raise UserError(
                f"{self.paths[i]} is {image.size[0]}x{image.size[1]}, but the run's "
                f"image_size={size}: corrupted images are not resized"
            )
        return center_square(image, size), label


def _read_array(path):
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read as an npy file ({one_line(error)})") from error


def _select_corruptions(argument, available):
    """The corruptions to measure: those of the argument, else the standard ones of the set."""
    if not argument:
        return [name for name in CORRUPTIONS if name in available] or list(available)
    names = argument.split(",")
    for name in names:
        if name not in available:
            raise UserError(
                f"--corruptions={argument}: {name!r} is not there: {', '.join(available)}"
            )
    return names


def measure(run: TrainedRun, args: Any) -> command.Results:
    """Measure the errors of a run on a corrupted set, and keep those measured earlier."""
    class_names = run.splits.train.class_names
    corrupted = CorruptedSet(args.corrupted, run.config, class_names, args.layout)
    names = _select_corruptions(args.corruptions, corrupted.names)
    results = measurements.read(args.workdir, "robustness") or {}
    key = os.path.abspath(args.corrupted)
    earlier = results.get(key, {})
    errors = earlier.get("errors", {}) if earlier.get("step") == run.step else {}
    entry = {
        "step": run.step,
        "layout": corrupted.layout,
        "generated": os.path.exists(os.path.join(args.corrupted, "generated.json")),
        "clean_error": run.error(run.test),
    }

    def save(errors):
        results[key] = entry | summarize(errors, corrupted.layout)
        command.write_results(args.workdir, "robustness", results)

    save(measure_errors(run, corrupted, names, errors, save))
    return command.Results(results, format_table(results[key]))


def main(argv: list[str]) -> int:
    parser = command.make_parser(__doc__, "robustness")
    parser.add_argument(
        "--corrupted",
        type=cli.local_path,
        required=True,
        metavar="DIR",
        help="the corrupted images",
    )
    parser.add_argument("--layout", choices=("auto", "npy", "folder"), default="auto")
    parser.add_argument("--corruptions", metavar="NAME,...", help="default: the 15 standard ones")
    return command.run("robustness", parser.parse_args(argv), measure, images=True)
