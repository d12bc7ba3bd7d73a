"""Train a network on the hypersphere, from a config to a table of accuracy and geometry.

  python -m hsproto.train --config=configs/digits.py --workdir=runs/digits

The same command resumes a run that was stopped.
"""

import argparse
import math
import os

import jax

from hsproto import (
    architecture,
    cli,
    data,
    distributed,
    evaluate,
    feed,
    figures,
    longtail,
    report,
    runs,
    sampler,
    sharding,
)
from hsproto import config as config_lib
from hsproto import state as state_lib
from hsproto.checkpoint import Checkpoints
from hsproto.distributed import say
from hsproto.errors import UserError
from hsproto.profile import Profile
from hsproto.snapshots import SnapshotWriter
from hsproto.step import make_train_step
from hsproto.writer import MetricsWriter, Progress, check_tensorboard, write_text


class NonFiniteLoss(UserError):
    """The loss or the gradient of a step is NaN or infinite, and would be so again."""


def train(config, workdir, profile_steps=0):
    """Runs or resumes `config` in `workdir`; returns the summary, or None when told to stop.

    Of `profile_steps` steps a profile is made (`hsproto.profile`). Raises UserError on what the
    user can mend, before any training, and NonFiniteLoss.
    """
    config_lib.validate(config)
    if config.tensorboard:
        check_tensorboard()
    mesh = sharding.make_mesh()
    key = "batch_size" if config.microbatches == 1 else "batch_size / microbatches"
    sharding.check_divisible(key, config.batch_size // config.microbatches, mesh)
    sharding.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
    architecture.validate(config)
    earlier = _claim(workdir, config)
    splits = data.load(config)
    config = state_lib.resolve(config, splits, earlier)
    architecture.validate(config, config.num_classes)
    _describe(config, workdir, mesh)
    if summary := _finished(workdir, config):
        return summary
    sampler.make(splits.train, config)  # which refuses what cannot be drawn
    feeds = evaluate.Feeds(
        feed.open(splits.train, config, mesh), feed.open(splits.test, config, mesh)
    )
    # Only now: input that is refused must not claim the workdir for a config that cannot run.
    if distributed.is_main():
        write_text(os.path.join(workdir, "config.json"), config_lib.to_json(config))

    with (
        Checkpoints(workdir, keep=config.keep_checkpoints) as checkpoints,
        distributed.Stop() as stop,
    ):
        restored = checkpoints.restore(state_lib.abstract(config, mesh))
        if restored is None:
            state, start = state_lib.create(config, mesh), 0
        else:
            state, start = restored
            say(f"resuming at step {start}")
        evaluator = evaluate.Evaluator(config, feeds, mesh)
        with (
            MetricsWriter(workdir, start, config.tensorboard, distributed.is_main()) as writer,
            Profile(workdir, profile_steps, say) as profile,
        ):
            snapshots = SnapshotWriter(workdir, start, splits.test, distributed.is_main())
            loop = _Loop(
                config, mesh, feeds.train, evaluator, checkpoints, writer, snapshots, profile
            )
            evaluation = loop.run(state, start, stop)
        if evaluation is None:
            return None
    summary = evaluate.summarise(
        config, loop.total, evaluation, mesh, loop.progress.images_per_second
    )
    if distributed.is_main():
        evaluate.write(workdir, summary, evaluation, splits.train.class_names)
        say(report.table(summary))
        figures.write_figures(workdir, workdir)
    return summary


class _Loop:
    """The loop over steps. The metrics of a step are read when the next one is under way."""

    def __init__(
        self, config, mesh, train_feed, evaluator, checkpoints, writer, snapshots, profile
    ):
        self.total = state_lib.total_steps(config)
        self.progress = Progress(self.total, config.batch_size, say)
        self._config, self._feed, self._evaluator = config, train_feed, evaluator
        self._checkpoints, self._writer, self._profile = checkpoints, writer, profile
        self._snapshots = snapshots
        log_prior = None
        if config.logit_adjustment:
            log_prior = longtail.log_prior(longtail.class_counts(train_feed.source))
        self._step = make_train_step(config, mesh, log_prior)
        per_epoch = state_lib.steps_per_epoch(config)
        self._eval_every = max(1, round(config.eval_every_epochs * per_epoch))
        self._save_every = max(1, round(config.checkpoint_every_epochs * per_epoch))

    def run(self, state, start, stop):
        """The evaluation of the last step's state, or None where `stop` came first; it is saved."""
        batches = self._profile.batches(self._feed.batches(start, self.total - start))
        unread = evaluation = None
        for step, batch in enumerate(batches, start=start + 1):
            state, metrics = self._step(state, batch)
            self._profile.step(state)
            if unread:
                self._read(*unread)
            unread = (step, metrics)
            last, stopping = step == self.total, stop.at(step)
            evaluating = step % self._eval_every == 0 or last
            saving = step % self._save_every == 0 or last or stopping
            if evaluating or saving:
                # A state is kept or looked at only once its own loss is known to be finite.
                self._read(*unread)
                unread = None
                self.progress.pause()
                self._profile.pause(state)
                if evaluating:
                    evaluation = self._evaluate(state, step)
                if saving:
                    self._checkpoints.save(step, state)
                self.progress.start()
                self._profile.resume()
            if stopping and not last:
                self._checkpoints.wait()
                kept = self._checkpoints.steps()
                if step in kept:
                    say(f"stopped at step {step}, saved; the same command resumes")
                else:
                    newest = f"step {kept[-1]}" if kept else "the start"
                    say(f"stopped at step {step}, not saved; the same command resumes at {newest}")
                return None
        self.progress.pause()
        self._checkpoints.wait()
        # Nothing was left to do where a run was killed between its last checkpoint and its summary.
        return evaluation or self._measured(state, self.total)

    def _read(self, step, metrics):
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(metrics[name]):
                self._checkpoints.wait()
                kept = self._checkpoints.steps()
                raise NonFiniteLoss(
                    f"the {name.replace('_', ' ')} of step {step} is {metrics[name]}; training "
                    "stopped. Last good checkpoint: "
                    f"{f'step {kept[-1]}' if kept else 'none yet'}. A lower base_lr, a higher "
                    "temperature or a warm-up usually helps"
                )
        if step % self._config.log_every == 0 or step == self.total:
            self._writer.write(step, metrics)
        self.progress.step(step, metrics["loss"])

    def _evaluate(self, state, step):
        found = self._measured(state, step)
        metrics = {
            f"{split}/{k}": v for split in found.metrics for k, v in found.metrics[split].items()
        }
        self._writer.write(step, metrics)
        say(
            f"step {step}  test accuracy {metrics['test/accuracy']:.4f}  train accuracy "
            f"{metrics['train/accuracy']:.4f}  train nc1 {metrics['train/nc1']:.3g}"
        )
        return found

    def _measured(self, state, step):
        count = self._config.snapshot_points
        found = self._evaluator.evaluate(state.variables, snapshot_points=count)
        self._snapshots.write(step, found.snapshot)
        return found


def _finished(workdir, config):
    """The summary of a run that is finished, with its pictures; None of another one."""
    if not os.path.exists(os.path.join(workdir, "summary.json")):
        return None
    summary = runs.read_summary(workdir)
    if summary["step"] != state_lib.total_steps(config):
        return None
    say(f"finished already\n{report.table(summary)}")
    if distributed.is_main() and not figures.has_figures(workdir):
        figures.write_figures(workdir, workdir)
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
        distributed.barrier("claimed")
        count = jax.process_count()
        seen = sum(os.path.exists(os.path.join(workdir, f".process_{i}")) for i in range(count))
        distributed.barrier("seen")
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
    say(
        f"{config.dataset}: {config.num_examples} training images of {config.num_classes} classes; "
        f"{config.backbone}, {config.loss}, {state_lib.total_steps(config)} steps of "
        f"{config.batch_size} on {mesh.size} {device.device_kind} device(s); {workdir}"
    )


def _steps(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps, as 20")
    return int(text)


def main(argv):
    parser = cli.Parser(__doc__, prog="python -m hsproto.train")
    parser.add_argument("--workdir", required=True, help="where the run lives; resumed if it does")
    parser.add_argument(
        "--profile", type=_steps, nargs="?", const=20, default=0, metavar="STEPS",
        help="trace so many steps (default 20) and tell how long they waited for input",
    )  # fmt: skip
    distributed.add_flags(parser)
    args, config = parser.parse_with_config(argv)
    distributed.join(args)
    with distributed.end_where_one_is_lost():
        train(config, args.workdir, args.profile)
    return 0


if __name__ == "__main__":
    cli.run(main)
