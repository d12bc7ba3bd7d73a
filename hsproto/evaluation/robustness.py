"""Errors of a run on corrupted test images, and mCE: ImageNet-C, CIFAR-C, or generated ones.

  hsproto robustness --workdir=runs/NAME --corrupted=DIR [--layout=npy|folder]

Layouts, as published:

folder  ImageNet-C: DIR/<corruption>/<1..5>/<class>/*, or with a folder above, as in
        DIR/noise/<corruption>/...; of the classes, those of the run are read, by name
npy     CIFAR-C: DIR/<corruption>.npy, uint8 [5 N, H, W(, C)], severity after severity, and
        labels.npy [5 N]; hsproto corruptions writes the same

Images are taken as they are: no resize, no crop. Errors are shares, 0..1; their mean is over the 15
corruptions of Hendrycks & Dietterich (2019). mCE, in per cent, is of errors over AlexNet's on
ImageNet-C, so it is given for that layout alone, and published ones are of all 1,000 classes.

A table; in full in WORKDIR/robustness.json, a set an entry. What stands there for the same set and
checkpoint is not measured again: what was stopped goes on.
"""

import dataclasses
import json
import os
import pathlib
import time

import numpy as np

from hsproto import cli
from hsproto.data import arrays
from hsproto.data.decode import center_square
from hsproto.data.folder import FolderSource, class_folders, folder_source
from hsproto.data.source import data_spec
from hsproto.errors import UserError, one_line
from hsproto.evaluation.trained import TrainedRun
from hsproto.parallel import processes
from hsproto.runs import summary as summary_lib
from hsproto.runs.files import to_json, write_text
from hsproto.runs.progress import duration

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


def corruption_errors(errors):
    """CE_c = 100 E_c / A_c of each corruption, in per cent; A_c are AlexNet's errors.

    `errors` {name: the top-1 errors at severities 1..5}, shares; E_c is their mean.
    """
    return {name: 100 * float(np.mean(e)) / ALEXNET_ERRORS[name] for name, e in errors.items()}


def mce(errors):
    """Mean corruption error in per cent: the mean of `corruption_errors` over the 15 corruptions.

    NaN unless all 15 are there; others do not count.
    """
    if not set(CORRUPTIONS) <= set(errors):
        return float("nan")
    of_each = corruption_errors({name: errors[name] for name in CORRUPTIONS})
    return float(np.mean(list(of_each.values())))


class CorruptedSet:
    """The corrupted images in a folder: `names` of corruptions, `source(name, severity)`.

    Raises UserError where the folder holds none in the `layout`: "npy", "folder" or "auto".
    """

    def __init__(self, path, config, class_names, layout="auto"):
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

    def source(self, name, severity):
        """The images of a corruption at a severity in 1..5, as a source (`hsproto.data.load`)."""
        place = self._places[name]
        if self.layout == "folder":
            folder = os.path.join(place, str(severity))
            return _folder_source(folder, self._class_names, self._spec)
        images = _read_array(place)
        if len(images) % SEVERITIES or self._labels.shape != (len(images),):
            raise UserError(
                f"{place} must hold five severities of images and labels.npy a label for each; "
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


def measure(run, corrupted, names, errors, save):
    """Errors {name: [at severity 1, ... 5]} of a `Run` on corruptions of a `CorruptedSet`.

    `errors` are those known already, which are returned too; `save(errors)` is called when a
    corruption is done.
    """
    start, left = time.perf_counter(), [name for name in names if name not in errors]
    for done, name in enumerate(left, start=1):
        sources = (corrupted.source(name, severity + 1) for severity in range(SEVERITIES))
        errors = errors | {name: [run.error(run.embed(source)) for source in sources]}
        save(errors)
        eta = (time.perf_counter() - start) * (len(left) - done) / done
        processes.log_main(
            f"{name}  error {np.mean(errors[name]):.4f}  {done}/{len(left)}  ETA {duration(eta)}"
        )
    return errors


def summarise(errors, layout):
    """What the errors of a set come to: means, and CE and mCE for ImageNet-C's layout.

    The mean error is over those of the 15 standard corruptions that are there, how many of them is
    `counted`; over all, if none is.
    """
    standard = {name: errors[name] for name in CORRUPTIONS if name in errors}
    counted = standard or errors
    normalised = layout == "folder"
    return {
        "errors": errors,
        "mean_errors": {name: float(np.mean(e)) for name, e in errors.items()},
        "mean_error": float(np.mean(list(counted.values()))),
        "counted": len(counted),
        "corruption_errors": corruption_errors(standard) if normalised else None,
        "mce": mce(errors) if normalised else None,
    }


def format_table(result):
    """Errors by corruption and severity as text, with their means and, where defined, CE."""
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
    """{corruption: folder}: folders that hold a folder "1", in `path` or one level below."""
    found = {}
    for name in class_folders(path):
        folder = os.path.join(path, name)
        below = {inner: os.path.join(folder, inner) for inner in class_folders(folder)}
        found |= {name: folder} if "1" in below else below
    return {name: f for name, f in found.items() if os.path.isdir(os.path.join(f, "1"))}


def _folder_source(folder, class_names, spec):
    there = class_folders(folder) if os.path.isdir(folder) else []
    missing = [name for name in class_names if name not in there]
    if missing:
        raise UserError(
            f"{folder} lacks class folders of the run: {', '.join(missing[:3])}"
            f"{' ...' if len(missing) > 3 else ''} ({len(missing)} of {len(class_names)})"
        )
    files = folder_source(pathlib.Path(folder), class_names, spec)
    source = ExactSizeFolder(files.paths, files.labels, class_names, spec.side, spec.channels)
    source[0]  # a wrong size is found here and not in a thread
    return source


class ExactSizeFolder(FolderSource):
    """Image files that have the right size already."""

    def __getitem__(self, i):
        image, label = self.picture(i)
        if image.size != (self._size, self._size):
            raise UserError(
                f"{self.paths[i]} is {image.size[0]}x{image.size[1]}, but the run's "
                f"image_size={self._size}: corrupted images are not resized"
            )
        return center_square(image, self._size), label


def _read_array(path):
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read as an npy file ({one_line(error)})") from error


def _read_results(path):
    """The content of a robustness.json; empty where there is none, or none that can be read."""
    try:
        with open(path) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _chosen(argument, there):
    """The corruptions to measure: those of the argument, else the standard ones that are there."""
    if not argument:
        return [n for n in CORRUPTIONS if n in there] or list(there)
    names = argument.split(",")
    for name in names:
        if name not in there:
            raise UserError(f"--corruptions={argument}: {name!r} is not there: {', '.join(there)}")
    return names


def main(argv):
    parser = cli.Parser(__doc__, prog="hsproto robustness")
    cli.add_run_flags(parser)
    parser.add_argument("--corrupted", required=True, metavar="DIR", help="the corrupted images")
    parser.add_argument("--layout", choices=("auto", "npy", "folder"), default="auto")
    parser.add_argument("--corruptions", metavar="NAME,...", help="default: the 15 standard ones")
    processes.add_flags(parser)
    args = parser.parse_args(argv)
    processes.join(args)
    run = TrainedRun(args.workdir, args.checkpoint)
    corrupted = CorruptedSet(args.corrupted, run.config, run.splits.train.class_names, args.layout)
    names = _chosen(args.corruptions, corrupted.names)
    path = os.path.join(args.workdir, "robustness.json")
    results, key = _read_results(path), os.path.abspath(args.corrupted)
    known = results.get(key, {})
    known = known if known.get("step") == run.step else {}
    with processes.exit_if_process_lost():
        entry = {
            "step": run.step,
            "layout": corrupted.layout,
            "generated": os.path.exists(os.path.join(args.corrupted, "generated.json")),
            "clean_error": run.error(run.test),
        }

        def save(errors):
            results[key] = entry | summarise(errors, corrupted.layout)
            if processes.is_main():
                write_text(path, to_json(results, indent=1))

        save(measure(run, corrupted, names, known.get("errors", {}), save))
    processes.log_main(format_table(results[key]))
    return 0
