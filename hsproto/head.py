"""Train a classifier on features of any network: a linear embedding, or hidden layers, and a loss.

  hsproto head FILE.npz --workdir=DIR [--loss=nonl] [--hidden_layers=512] [--early_stop]

FILE is an npz, or a folder of npy files, with features [N, D], labels [N] and, if there are,
test_features, test_labels and class_names, as `hsproto measure` takes them. Without a test set a
tenth of the features is held out as one. Features are normalized, each by its mean and standard
deviation over the training set.

The workdir is that of a run like any other: evaluate, predict (on files of features), ood,
calibration, retrieval and report work on it, and the same command resumes it. Any other key of the
config is set by --config.key=value.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["head", *sys.argv[1:]])

import contextlib
import os
import tempfile
from typing import Any

from hsproto import config as config_lib
from hsproto import config_checks, recipes, train
from hsproto.data.features import read_features
from hsproto.methods import LOSSES
from hsproto.parallel import processes
from hsproto.parallel.processes import log_main
from hsproto.runs import config_file

# Flags that set the key of their name.
_KEYS = {
    "loss": ("NAME", f"{', '.join(LOSSES)}; default: nonl"),
    "temperature": ("T", "default: 0.1"),
    "hidden_layers": ("W/W", "widths of hidden layers; default: none, a linear embedding"),
    "embedding": ("KIND", "signed (linear, default), pooled: what the hidden layers give, >= 0"),
    "embedding_dim": (
        "D",
        "default: as many as features, at most 128, at least as classes (up to 2048)",
    ),
    "epochs": ("N", "default: 20; with --early_stop the most"),
    "validation_share": ("SHARE", "of the rows of each class, held out; default: 0.1"),
    "seed": ("N", "default: 42"),
}
_MOST_DIMS = 2048  # that classes ask for
_SHORTEST = 5.0  # epochs of the first trial of --early_stop


def make_config(path: str, values: dict[str, str]) -> Any:
    """Return the config of a classifier on the features in a file or folder.

    Args:
        path: As of `hsproto.data.features.read_features`.
        values: Keys and their values as text.

    Raises:
        UserError: The file or a value cannot be used.
    """
    with contextlib.ExitStack() as files:
        found = read_features([path], files)
    rows, dim = found.train.shape
    config = recipes.features()
    config.dataset = os.path.splitext(os.path.basename(os.path.abspath(path)))[0]
    config.data_dir = os.path.abspath(path)
    config.channels = dim
    if found.test is None:
        config.validation_share = 0.1
    for key, text in values.items():
        config_lib.set_value(config, key, text)
    if config.embedding == "signed" and not config.embedding_dim:
        # Of more classes a simplex would take more memory than there is.
        simplex = min(len(found.class_names), _MOST_DIMS)
        config.embedding_dim = max(simplex, min(dim, 128))
    left = max(1, int(rows * (1 - config.validation_share)))
    if "batch_size" not in values:
        # A power of two, which most numbers of devices divide.
        config.batch_size = min(config.batch_size, 1 << max(left.bit_length() - 2, 0))
    _spread_evaluations(config)
    config_checks.validate(config)
    for note in found.notes:
        log_main(f"note: {note}")
    return config


def _spread_evaluations(config):
    config.eval_every_epochs = max(1.0, config.epochs / 2)
    config.checkpoint_every_epochs = max(1.0, config.epochs / 2)
    config.warmup_epochs = min(config.warmup_epochs, config.epochs / 4)


def choose_epochs(config: Any) -> float | None:
    """Return after how many epochs training is best stopped; None if told to end before.

    Runs of 5, 10, 20, ... epochs, each with its whole schedule, are tried on the training set less
    `validation_share`, until one is not better than the one before or `config.epochs` is reached.
    """
    trial = config.copy_and_resolve_references()
    trial.validation_share = config.validation_share or 0.1
    best, best_accuracy, epochs = config.epochs, -1.0, min(_SHORTEST, config.epochs)
    while epochs <= config.epochs:
        trial.epochs = epochs
        _spread_evaluations(trial)
        trial.eval_every_epochs, trial.snapshot_points = epochs, 0
        with tempfile.TemporaryDirectory(prefix="hsproto_head_") as folder:
            summary = train.train(trial, folder)
        if summary is None:  # told to stop
            return None
        accuracy = summary["test"]["accuracy"]
        log_main(f"early stop: validation accuracy {accuracy:.4f} after {epochs:g} epochs")
        if accuracy <= best_accuracy:
            break
        best, best_accuracy, epochs = epochs, accuracy, 2 * epochs
    return best


def main(argv: list[str]) -> int:
    parser = cli.Parser(__doc__, prog="hsproto head")
    parser.add_argument("file", type=cli.local_path, metavar="FILE", help="an npz, or a folder")
    parser.add_argument(
        "--workdir", type=cli.local_path, required=True,
        help="the run's folder; if it holds a run, resume it",
    )  # fmt: skip
    for key, (metavar, text) in _KEYS.items():
        parser.add_argument(f"--{key}", metavar=metavar, help=text)
    parser.add_argument(
        "--early_stop", action="store_true",
        help="try 5, 10, 20, ... epochs on held-out rows, and train on all of them for the best",
    )  # fmt: skip
    parser.usage = f"{parser.format_usage()[7:].strip()} [--config.key=value ...]"
    args, rest = parser.parse_known_args(argv)
    values = {key: getattr(args, key) for key in _KEYS if getattr(args, key) is not None}
    for override in rest:
        key, equals, text = override.removeprefix("--config.").partition("=")
        if not override.startswith("--config.") or not equals:
            parser.error(f"unrecognized arguments: {override}")
        values[key] = text
    config = make_config(args.file, values)
    if args.early_stop:
        # A run that is resumed has chosen already.
        earlier = config_file.read(args.workdir)
        epochs = earlier.epochs if earlier else choose_epochs(config)
        if epochs is None:
            return 0
        config.epochs = epochs
        _spread_evaluations(config)
    with processes.together():
        train.train(config, args.workdir)
    return 0
