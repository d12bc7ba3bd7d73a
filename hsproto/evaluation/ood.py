"""Out-of-distribution detection: can a run tell other images from those of its test set?

  hsproto ood --workdir=runs/NAME --other SET... [--k=50]

SET is an npz (`test_images` or `images`, uint8 [N, H, W(, C)]), a folder of images at any depth, or
tfds:NAME, whose test split is read. Its images are converted to the size and channels of the run's,
as those of a folder are; labels are ignored, so leave out images of the run's own classes. Of a run
on features SET is a file of features.

Scores, higher for images that look familiar:

max_cosine  the largest cosine with a prototype (for cross entropy, a row of the classifier)
energy      log Σ_c exp(logit_c), the negative free energy of Liu et al. (2020); the logits are
            cosines over the run's temperature, for cross entropy the linear classifier's
knn         the cosine with the k-th nearest training feature (Sun et al. 2022); features are those
            that the classifier sees, for SCL those of its head

auroc is the probability that a test image scores above one of the others (a tie counts half); fpr95
is the share of the others that pass the threshold that 95 % of the test images pass. Prints a table
and writes WORKDIR/ood.json.
"""

import os
import zipfile
from typing import Any

import numpy as np
from PIL import Image
from scipy import special

from hsproto import cli, npz
from hsproto.data import arrays, decode, folder, listing
from hsproto.data import features as feature_files
from hsproto.data import load as load_lib
from hsproto.data.source import DataSpec, Source, data_spec
from hsproto.errors import UserError
from hsproto.evaluation import command
from hsproto.evaluation.evaluator import Embedded
from hsproto.evaluation.neighbors import kth_cosine
from hsproto.evaluation.trained import TrainedRun
from hsproto.parallel import processes
from hsproto.runs import summary as summary_lib

SCORES = ("max_cosine", "energy", "knn")


def auroc(id_scores: np.ndarray, ood_scores: np.ndarray) -> float:
    """Return P(id > ood) + P(id = ood)/2 over pairs of scores [N], [M]."""
    from sklearn.metrics import roc_auc_score  # a second that other commands need not pay

    truth = np.r_[np.ones(len(id_scores)), np.zeros(len(ood_scores))]
    return float(roc_auc_score(truth, np.r_[id_scores, ood_scores]))


def fpr95(id_scores: np.ndarray, ood_scores: np.ndarray) -> float:
    """Return the share of `ood_scores` at or above the threshold that keeps 95 % of `id_scores`."""
    ascending = np.sort(id_scores)
    return float(np.mean(ood_scores >= ascending[len(ascending) // 20]))


def scores(run: TrainedRun, embedded: Embedded, k: int) -> dict[str, np.ndarray]:
    """Return {score: float [N]} of embedded images, without the padding."""
    features = embedded.projections
    return {
        "max_cosine": run.cosines(embedded).per_image(lambda cosines, _: cosines.max(axis=1)),
        "energy": run.logits(embedded).per_image(
            lambda logits, _: special.logsumexp(logits, axis=1)
        ),
        "knn": kth_cosine(
            run.on_host(features)[embedded.where],
            run.train.projections,
            k,
            where=run.train.where,
            on_host=run.on_host,
        ),
    }


def detect(
    id_scores: dict[str, np.ndarray], ood_scores: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Return {score: {"auroc", "fpr95"}} of the scores of the test set and of other images."""
    return {
        name: {
            "auroc": auroc(id_scores[name], ood_scores[name]),
            "fpr95": fpr95(id_scores[name], ood_scores[name]),
        }
        for name in SCORES
    }


def read_other(location: str, config: Any) -> Source:
    """Read other images, with the size and channels of those of the run of `config`.

    Raises:
        UserError: there is no such set, or it holds no usable images.
    """
    given = data_spec(config)
    if config.source == "features":
        return feature_files.load_rows(location, config.channels)
    if location.startswith("tfds:"):
        dataset = location.removeprefix("tfds:")
        spec = DataSpec(
            source="tfds",
            dataset=dataset,
            image_size=given.side,
            channels=given.channels,
            interpolation=given.interpolation,
        )
        return load_lib.read_splits(spec).test
    if os.path.isdir(location):
        paths = listing.image_files(location)
        if not paths:
            raise UserError(f"--other={location} holds no image")
        return folder.FolderSource(paths, np.zeros(len(paths)), ("other",), given)
    return _read_npz(location, given)


def format_table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return AUROC and FPR95 of each set by each score, as text."""
    rows = [f"{'':<24}" + "".join(f"{name:^18}" for name in SCORES)]
    rows.append(f"{'':<24}" + f"{'auroc':>9}{'fpr95':>9}" * len(SCORES))
    for other, result in results.items():
        cells = "".join(
            summary_lib.format_cell(result[s][m]) for s in SCORES for m in ("auroc", "fpr95")
        )
        name = os.path.basename(os.path.normpath(other))
        rows.append(f"{name[:23]:<24}{cells}")
    return "\n".join(rows)


def _read_npz(path, spec):
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        raise UserError(f"--other={path} is neither a folder of images nor an npz file")
    found = npz.read(path, (), optional=("test_images", "images"))
    images = next(iter(found.values()), None)
    if images is None:
        raise UserError(f"--other={path} holds neither test_images nor images")
    gray = images.ndim == 3 or images.shape[-1] == 1
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not (gray or images.shape[3] == 3):
        raise UserError(
            f"--other={path} images must be uint8 [N, H, W] or [N, H, W, 1 or 3]; "
            f"got {images.dtype} of shape {images.shape}"
        )
    mode = "RGB" if spec.channels == 3 else "L"
    images = images.reshape(images.shape[:3]) if gray else images
    pictures = (Image.fromarray(pixels).convert(mode) for pixels in images)
    fitted = [decode.center_square(each, spec.side, spec.resample) for each in pictures]
    if not fitted:
        raise UserError(f"--other={path} holds no image")
    return arrays.ArraySource(np.stack(fitted), np.zeros(len(fitted)), ("other",))


def measure(run: TrainedRun, args: Any) -> command.Results:
    """Measure how well a run tells other sets of images from its test set."""
    others = {location: read_other(location, run.config) for location in args.other}
    if not 1 <= args.k <= run.config.num_examples:
        raise UserError(f"--k={args.k} must be in 1..{run.config.num_examples}, training images")
    id_scores = scores(run, run.test, args.k)
    results = {}
    for location, source in others.items():
        results[location] = detect(id_scores, scores(run, run.embed(source), args.k))
        processes.log_main(f"{location}: {len(source)} images")
    content = {"step": run.step, "k": args.k, "others": results}
    return command.Results(content, format_table(results))


def main(argv: list[str]) -> int:
    parser = command.make_parser(__doc__, "ood")
    parser.add_argument(
        "--other",
        type=cli.local_path,
        required=True,
        nargs="+",
        metavar="SET",
        help="npz, folder, tfds:",
    )
    parser.add_argument("--k", type=int, default=50, help="of knn (default 50)")
    return command.run("ood", parser.parse_args(argv), measure)
