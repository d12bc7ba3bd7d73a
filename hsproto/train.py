"""Train a network on the hypersphere: from a config to a table of accuracy and geometry.

  hsproto train --config=configs/digits.py --workdir=runs/digits

The same command resumes a stopped run.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["train", *sys.argv[1:]])

import argparse
import os
import warnings

import jax
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto.data import load as load_lib
from hsproto.data import loader, sampler
from hsproto.errors import RunFailure, UserError, one_line
from hsproto.evaluation.evaluator import Evaluator, Loaders
from hsproto.models import architecture
from hsproto.parallel import mesh as mesh_lib
from hsproto.parallel import processes
from hsproto.parallel.preemption import Preemption
from hsproto.parallel.processes import log_main
from hsproto.reporting.figures import runs as run_figures
from hsproto.runs import config_file
from hsproto.runs import summary as summary_lib
from hsproto.runs.metrics_log import MetricsWriter, check_tensorboard
from hsproto.runs.snapshots import SnapshotWriter
from hsproto.runs.storage import persist
from hsproto.training import state as state_lib
from hsproto.training.checkpoint import Checkpoints
from hsproto.training.loop import Collaborators, TrainingLoop
from hsproto.training.profiler import Profile


def train(config: ConfigDict, workdir: str, profile_steps: int = 0) -> dict | None:
    """Start or resume the run of `config` in `workdir`.

    Args:
        config: The run's config.
        workdir: The run's folder.
        profile_steps: Steps to profile (`hsproto.training.profiler`); 0: none.

    Returns:
        The run's summary, or None if it was stopped (`parallel.preemption`).

    Raises:
        UserError: Before any training, for what the user can fix.
        NonFiniteLoss: If training diverges.
        RunFailure: If the results could not be kept, or the workdir was removed.
    """
    with Preemption() as preemption:
        try:
            return _train(config, workdir, profile_steps, preemption)
        except FileNotFoundError:
            if os.path.exists(workdir):
                raise
            raise RunFailure(f"--workdir={workdir} was removed while its run went on") from None


def _train(config, workdir, profile_steps, preemption):
    mesh = mesh_lib.make_mesh()
    _check(config, mesh)
    earlier = _claim(workdir, config)
    splits = load_lib.load_splits(config)
    config = load_lib.resolve(config, splits, earlier)
    architecture.validate(config, config.num_classes)
    _log_run(config, workdir, mesh)
    if summary := _finished(workdir, config):
        return summary
    sampler.make(splits.train, config)  # which rejects what cannot be sampled
    loaders = Loaders(*(loader.open_loader(split, config, mesh) for split in splits))
    # Only now: rejected input must not claim the workdir for a config that cannot run.
    if processes.is_main():
        config_file.write(workdir, config)

    with Checkpoints(workdir, keep=config.keep_checkpoints) as checkpoints:
        restored = checkpoints.restore(state_lib.abstract(config, mesh))
        if restored is None:
            state, start = state_lib.create(config, mesh), 0
        else:
            state, start = restored
            log_main(f"resuming at step {start}")
        evaluator = Evaluator(config, loaders, mesh)
        with (
            MetricsWriter(workdir, start, config.tensorboard, processes.is_main()) as metrics,
            Profile(workdir, profile_steps, log_main) as profile,
        ):
            snapshots = SnapshotWriter(workdir, start, splits.test, processes.is_main())
            collaborators = Collaborators(
                loaders.train, evaluator, checkpoints, metrics, snapshots, profile
            )
            loop = TrainingLoop(config, mesh, collaborators)
            evaluation = loop.run(state, start, preemption)
        if evaluation is None:
            return None
    summary = summary_lib.summarize(
        config, loop.total, evaluation, mesh, loop.progress.images_per_second
    )
    if processes.is_main():
        _write_results(workdir, summary, evaluation, splits.train.class_names)
        if metrics.failure:
            raise RunFailure(metrics.failure)
    return summary


def _write_results(workdir, summary, evaluation, class_names):
    error = persist(lambda: summary_lib.write_results(workdir, summary, evaluation, class_names))
    log_main(summary_lib.format_table(summary))
    if error:
        raise RunFailure(
            f"--workdir={workdir}: the results could not be written: {one_line(error)}; the last "
            "checkpoint is kept, and the same command writes them when the storage is mended"
        )
    _draw(workdir)


def _draw(workdir):
    """Write the pictures, without which a run is finished too."""
    try:
        run_figures.write_figures(workdir, workdir)
    except OSError as error:
        warnings.warn(
            f"the pictures could not be written: {one_line(error)}; the same command draws them",
            stacklevel=2,
        )


def _check(config, mesh):
    """Check what needs no data."""
    config_lib.validate(config)
    if config.tensorboard:
        check_tensorboard()
    key = "batch_size" if config.microbatches == 1 else "batch_size / microbatches"
    mesh_lib.check_divisible(key, config.batch_size // config.microbatches, mesh)
    mesh_lib.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
    architecture.validate(config)


def _finished(workdir, config):
    """Return the summary of a finished run, drawing missing figures; None if it is not finished."""
    if not os.path.exists(os.path.join(workdir, "summary.json")):
        return None
    summary = summary_lib.read_summary(workdir)
    if summary["step"] != config_lib.total_steps(config):
        return None
    log_main(f"finished already\n{summary_lib.format_table(summary)}")
    if processes.is_main() and not run_figures.has_figures(workdir):
        _draw(workdir)
    return summary


def _claim(workdir, config):
    """Create `workdir`; return the config of the run that it holds, or None.

    Raises UserError if it is not writable, not shared by all processes, or holds another run.
    """
    if os.path.isfile(workdir):
        raise UserError(f"--workdir={workdir} is a file; name a folder")
    mark = os.path.join(workdir, f".process_{jax.process_index()}")
    try:
        os.makedirs(workdir, exist_ok=True)
        with open(mark, "w"):
            pass
        processes.barrier("claimed")
        count = jax.process_count()
        seen = sum(os.path.exists(os.path.join(workdir, f".process_{i}")) for i in range(count))
        processes.barrier("seen")
        os.remove(mark)
    except OSError as error:
        raise UserError(f"--workdir={workdir} is not writable: {error.strerror}") from None
    if seen < count:
        raise UserError(
            f"--workdir={workdir} must be the same folder for all {count} processes: process "
            f"{jax.process_index()} sees the files of {seen}"
        )
    earlier = config_file.read(workdir)
    if earlier is not None:
        _check_same_run(workdir, config, earlier)
    return earlier


def _check_same_run(workdir, config, earlier):
    # Values that come from the data are compared once the data are read.
    from_data = [
        k for k in ("num_classes", "num_examples", "mean", "std", "channels") if not config[k]
    ]
    from_data += ["crop_on"] if config.crop_on == "auto" else []
    changed = [k for k in config_lib.differences(config, earlier) if k not in from_data]
    if changed:
        values = ", ".join(f"{k}={earlier[k]!r} there, {config[k]!r} here" for k in changed)
        raise UserError(
            f"--workdir={workdir} holds a run of another config ({values}); use another workdir"
        )


def _log_run(config, workdir, mesh):
    device = mesh.devices.flat[0]
    log_main(
        f"{config.dataset}: {config.num_examples} training images of {config.num_classes} classes; "
        f"{config.backbone}, {config.loss}, {config_lib.total_steps(config)} steps of "
        f"{config.batch_size} on {mesh.size} {device.device_kind} device(s); {workdir}"
    )


def _positive_integer(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive integer, e.g. 20")
    return int(text)


def main(argv: list[str]) -> int:
    """Run `hsproto train` and return its exit status."""
    parser = cli.Parser(__doc__, prog="hsproto train")
    parser.add_argument(
        "--workdir",
        type=cli.local_path,
        required=True,
        help="the run's folder; if it holds a run, resume it",
    )
    parser.add_argument(
        "--profile", type=_positive_integer, nargs="?", const=20, default=0, metavar="STEPS",
        help="trace that many steps (default 20) and print how long they waited for input",
    )  # fmt: skip
    processes.add_flags(parser)
    args, config = parser.parse_with_config(argv)
    processes.join(args)
    with processes.exit_if_process_lost():
        train(config, args.workdir, args.profile)
    return 0
