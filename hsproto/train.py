"""Train a network on the hypersphere, from a config to a table of accuracy and geometry.

  hsproto train --config=configs/digits.py --workdir=runs/digits

The same command resumes a run that was stopped.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["train", *sys.argv[1:]])

import argparse
import os

import jax

from hsproto import config as config_lib
from hsproto.data import load as load_lib
from hsproto.data import loader, sampler
from hsproto.errors import UserError
from hsproto.evaluation.evaluator import Evaluator, Loaders
from hsproto.models import architecture
from hsproto.parallel import mesh as mesh_lib
from hsproto.parallel import processes
from hsproto.parallel.processes import log_main
from hsproto.reporting.figures import runs as run_figures
from hsproto.runs import summary as summary_lib
from hsproto.runs.files import write_text
from hsproto.runs.metrics_log import MetricsWriter, check_tensorboard
from hsproto.runs.snapshots import SnapshotWriter
from hsproto.training import state as state_lib
from hsproto.training.checkpoint import Checkpoints
from hsproto.training.loop import TrainingLoop
from hsproto.training.profiler import Profile


def train(config, workdir, profile_steps=0):
    """Runs or resumes `config` in `workdir`; returns the summary, or None when told to stop.

    Of `profile_steps` steps a profile is made (`hsproto.training.profiler`). Raises UserError on
    what the user can mend, before any training, and NonFiniteLoss.
    """
    config_lib.validate(config)
    if config.tensorboard:
        check_tensorboard()
    mesh = mesh_lib.make_mesh()
    key = "batch_size" if config.microbatches == 1 else "batch_size / microbatches"
    mesh_lib.check_divisible(key, config.batch_size // config.microbatches, mesh)
    mesh_lib.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
    architecture.validate(config)
    earlier = _claim(workdir, config)
    splits = load_lib.load_splits(config)
    config = load_lib.resolve(config, splits, earlier)
    architecture.validate(config, config.num_classes)
    _describe(config, workdir, mesh)
    if summary := _finished(workdir, config):
        return summary
    sampler.make(splits.train, config)  # which refuses what cannot be drawn
    feeds = Loaders(
        loader.open_loader(splits.train, config, mesh),
        loader.open_loader(splits.test, config, mesh),
    )
    # Only now: input that is refused must not claim the workdir for a config that cannot run.
    if processes.is_main():
        write_text(os.path.join(workdir, "config.json"), config_lib.to_json(config))

    with (
        Checkpoints(workdir, keep=config.keep_checkpoints) as checkpoints,
        processes.Preemption() as stop,
    ):
        restored = checkpoints.restore(state_lib.abstract(config, mesh))
        if restored is None:
            state, start = state_lib.create(config, mesh), 0
        else:
            state, start = restored
            log_main(f"resuming at step {start}")
        evaluator = Evaluator(config, feeds, mesh)
        with (
            MetricsWriter(workdir, start, config.tensorboard, processes.is_main()) as writer,
            Profile(workdir, profile_steps, log_main) as profile,
        ):
            snapshots = SnapshotWriter(workdir, start, splits.test, processes.is_main())
            loop = TrainingLoop(
                config, mesh, feeds.train, evaluator, checkpoints, writer, snapshots, profile
            )
            evaluation = loop.run(state, start, stop)
        if evaluation is None:
            return None
    summary = summary_lib.summarize(
        config, loop.total, evaluation, mesh, loop.progress.images_per_second
    )
    if processes.is_main():
        summary_lib.write_results(workdir, summary, evaluation, splits.train.class_names)
        log_main(summary_lib.format_table(summary))
        run_figures.write_figures(workdir, workdir)
    return summary


def _finished(workdir, config):
    """The summary of a run that is finished, with its pictures; None of another one."""
    if not os.path.exists(os.path.join(workdir, "summary.json")):
        return None
    summary = summary_lib.read_summary(workdir)
    if summary["step"] != config_lib.total_steps(config):
        return None
    log_main(f"finished already\n{summary_lib.format_table(summary)}")
    if processes.is_main() and not run_figures.has_figures(workdir):
        run_figures.write_figures(workdir, workdir)
    return summary


def _claim(workdir, config):
    """Makes `workdir`; the config of the run that it holds, or None.

    Raises UserError where it is unwritable or holds another config's run.
    """
    if os.path.isfile(workdir):
        raise UserError(f"--workdir={workdir} is a file; name a folder")
    mine = os.path.join(workdir, f".process_{jax.process_index()}")
    try:
        os.makedirs(workdir, exist_ok=True)
        with open(mine, "w"):
            pass
        processes.barrier("claimed")
        count = jax.process_count()
        seen = sum(os.path.exists(os.path.join(workdir, f".process_{i}")) for i in range(count))
        processes.barrier("seen")
        os.remove(mine)
    except OSError as error:
        raise UserError(f"--workdir={workdir} is not writable: {error.strerror}") from None
    if seen < count:
        raise UserError(
            f"--workdir={workdir} is not one folder for all {count} processes: process "
            f"{jax.process_index()} sees the files of {seen}"
        )
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        earlier = config_lib.from_json(file.read())
    # What was filled in from the data then is compared when the data are there; not before.
    filled = [k for k in ("num_classes", "num_examples", "mean", "std") if not config[k]]
    filled += ["crop_on"] if config.crop_on == "auto" else []
    changed = [k for k in config_lib.differences(config, earlier) if k not in filled]
    if changed:
        told = ", ".join(f"{k}={earlier[k]!r} there, {config[k]!r} here" for k in changed)
        raise UserError(f"--workdir={workdir} holds a run of another config ({told}); take another")
    return earlier


def _describe(config, workdir, mesh):
    device = mesh.devices.flat[0]
    log_main(
        f"{config.dataset}: {config.num_examples} training images of {config.num_classes} classes; "
        f"{config.backbone}, {config.loss}, {config_lib.total_steps(config)} steps of "
        f"{config.batch_size} on {mesh.size} {device.device_kind} device(s); {workdir}"
    )


def _steps(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps, as 20")
    return int(text)


def main(argv):
    parser = cli.Parser(__doc__, prog="hsproto train")
    parser.add_argument("--workdir", required=True, help="where the run lives; resumed if it does")
    parser.add_argument(
        "--profile", type=_steps, nargs="?", const=20, default=0, metavar="STEPS",
        help="trace so many steps (default 20) and tell how long they waited for input",
    )  # fmt: skip
    processes.add_flags(parser)
    args, config = parser.parse_with_config(argv)
    processes.join(args)
    with processes.exit_if_process_lost():
        train(config, args.workdir, args.profile)
    return 0
