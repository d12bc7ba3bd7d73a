"""The loop over training steps: log, evaluate, save."""

import math

import jax

from hsproto import config as config_lib
from hsproto.data import long_tail
from hsproto.errors import UserError
from hsproto.parallel.processes import log_main
from hsproto.runs.progress import Progress
from hsproto.training import objective
from hsproto.training.step import make_train_step


class NonFiniteLoss(UserError):
    """The loss or the gradient of a step is NaN or infinite, and would be so again."""


class TrainingLoop:
    """The loop over steps. The metrics of a step are read when the next one is under way."""

    def __init__(
        self, config, mesh, train_feed, evaluator, checkpoints, writer, snapshots, profile
    ):
        self.total = config_lib.total_steps(config)
        self.progress = Progress(self.total, config.batch_size, log_main)
        self._config, self._feed, self._evaluator = config, train_feed, evaluator
        self._checkpoints, self._writer, self._profile = checkpoints, writer, profile
        self._snapshots = snapshots
        log_prior = None
        if config.logit_adjustment:
            log_prior = objective.log_prior(long_tail.class_counts(train_feed.source))
        self._step = make_train_step(config, mesh, log_prior)
        per_epoch = config_lib.steps_per_epoch(config)
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
                    log_main(f"stopped at step {step}, saved; the same command resumes")
                else:
                    newest = f"step {kept[-1]}" if kept else "the start"
                    log_main(
                        f"stopped at step {step}, not saved; the same command resumes at {newest}"
                    )
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
        log_main(
            f"step {step}  test accuracy {metrics['test/accuracy']:.4f}  train accuracy "
            f"{metrics['train/accuracy']:.4f}  train nc1 {metrics['train/nc1']:.3g}"
        )
        return found

    def _measured(self, state, step):
        count = self._config.snapshot_points
        found = self._evaluator.evaluate(state.variables, snapshot_points=count)
        self._snapshots.write(step, found.snapshot)
        return found
