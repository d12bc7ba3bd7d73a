"""The loop over training steps: log, evaluate, save."""

import dataclasses
import math
from typing import Any

import jax
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto.data import long_tail
from hsproto.errors import UserError
from hsproto.parallel.preemption import Preemption, Stopped
from hsproto.parallel.processes import all_processes, log_main
from hsproto.runs.metrics_log import MetricsWriter
from hsproto.runs.progress import ItemProgress, Progress
from hsproto.runs.snapshots import SnapshotWriter
from hsproto.training import frozen, inspection, objective
from hsproto.training.best import Best
from hsproto.training.checkpoint import Checkpoints
from hsproto.training.profiler import Profile
from hsproto.training.state import TrainState
from hsproto.training.step import make_train_step


class NonFiniteLoss(UserError):
    """The loss or the gradient of a step is NaN or infinite, and would be so again."""


@dataclasses.dataclass(frozen=True)
class Collaborators:
    """Where a loop gets its batches, what evaluates its states, and where its results go.

    `loader` is the training set's (`data.loader`). `evaluator.evaluate(variables, snapshot_points,
    poll)` returns metrics and a snapshot and calls `poll(done, total)` between batches, with the
    images that are embedded and all of them (`evaluation.evaluator`, of which training knows
    nothing).
    """

    loader: Any
    evaluator: Any
    checkpoints: Checkpoints
    metrics: MetricsWriter
    snapshots: SnapshotWriter
    profile: Profile
    best: Best


class TrainingLoop:
    """The loop over steps. The metrics of a step are read while the next one runs."""

    def __init__(
        self, config: ConfigDict, mesh: jax.sharding.Mesh, using: Collaborators, step: Any = None
    ):
        """`step` is one that was compiled ahead; None: make it."""
        self.total = config_lib.total_steps(config)
        self._done, self._evaluated = 0, False
        self.progress = Progress(self.total, config.batch_size, log_main)
        self._config, self._using = config, using
        log_prior = None
        if config.logit_adjustment:
            log_prior = objective.log_prior(long_tail.class_counts(using.loader.source))
        self._step = step or make_train_step(config, mesh, log_prior)
        per_epoch = config_lib.steps_per_epoch(config)
        self._eval_every = max(1, round(config.eval_every_epochs * per_epoch))
        self._save_every = max(1, round(config.checkpoint_every_epochs * per_epoch))

    def run(self, state: TrainState, start: int, preemption: Preemption) -> Any:
        """Train from step `start` to the end.

        Returns:
            The evaluation of the last state, or None after a preemption, at which the state is
            saved.

        Raises:
            NonFiniteLoss: If a loss or gradient is not finite.
        """
        try:
            return self._run(state, start, preemption)
        except Stopped:  # within an evaluation, before which the state was saved
            self._log_stop()
            return None

    def _run(self, state, start, preemption):
        profile, checkpoints = self._using.profile, self._using.checkpoints
        batches = profile.batches(self._using.loader.batches(start, self.total - start))
        self._done = start
        unread = evaluation = digest = None
        if self._lacks_evaluation(start):
            evaluation = self._evaluate_and_log(state, start, preemption)
        for step, batch in enumerate(batches, start=start + 1):
            if step == start + 1:
                log_main("compiling the training step ...")
            state, measured = self._step(state, batch)
            self._done = step
            preemption.begin()
            profile.step(state)
            if unread:
                self._read(*unread)
            unread = (step, measured)
            last, stopping = step == self.total, preemption.reached()
            # Told to stop, it saves and ends; what the evaluation would write is made on resuming.
            evaluating = self._evaluates(step) and (last or not stopping)
            if evaluating or stopping or last or step % self._save_every == 0:
                # A state is evaluated or saved only once it and its loss are known to be finite.
                self._read(*unread)
                unread = None
                digest = self._inspect(state, step)
                self.progress.pause()
                profile.pause(state)
                # Saved first: an evaluation may fail, or be cut short.
                checkpoints.save(step, state, digest)
                if evaluating:
                    evaluation = self._evaluate_and_log(state, step, preemption)
                self.progress.start()
                profile.resume()
            if stopping and not last:
                self._log_stop()
                return None
        self.progress.pause()
        if digest is not None:
            checkpoints.ensure(self.total, state, digest)
        # No step was left if the run was killed between its last checkpoint and its summary.
        return evaluation or self._evaluate(state, self.total, preemption)

    def _lacks_evaluation(self, start):
        """Whether a run that was stopped in an evaluation is to make up for it."""
        if not start or not self._evaluates(start):
            return False
        return all_processes(not self._using.metrics.has_evaluation(start))

    def _evaluates(self, step):
        if step == self.total:
            return True
        # The state that the whole network starts from may stay the best.
        starts = self._config.keep_best and step == frozen.steps(self._config)
        return starts or step % self._eval_every == 0

    def _read(self, step, metrics):
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(metrics[name]):
                raise self._non_finite(
                    f"the {name.replace('_', ' ')} of step {step} is {metrics[name]}"
                )
        if step % self._config.log_every == 0 or step == self.total:
            self._using.metrics.write(step, metrics)
        self.progress.step(step, metrics["loss"])

    def _inspect(self, state, step):
        """Return a state's digest, or raise if a finite loss made numbers that are not finite."""
        seen = inspection.inspect(state)
        if not seen.is_finite:
            raise self._non_finite(f"step {step} made parameters that are not finite")
        return seen.digest

    def _non_finite(self, what):
        saved = self._last_saved()
        return NonFiniteLoss(
            f"{what}; training stopped. Last good checkpoint: "
            f"{f'step {saved}' if saved else 'none yet'}. "
            "A lower base_lr, a higher temperature or a warm-up usually helps"
        )

    def _evaluate_and_log(self, state, step, preemption):
        evaluation = self._evaluate(state, step, preemption)
        metrics = {
            f"{split}/{name}": value
            for split, values in evaluation.metrics.items()
            for name, value in values.items()
        }
        self._using.metrics.write(step, metrics)
        self._using.best.see(step, metrics)
        log_main(
            f"step {step}  test accuracy {metrics['test/accuracy']:.4f}  train accuracy "
            f"{metrics['train/accuracy']:.4f}  train nc1 {metrics['train/nc1']:.3g}"
        )
        return evaluation

    def _evaluate(self, state, step, preemption):
        if not self._evaluated:
            log_main("compiling the evaluation ...")
        self._evaluated = True
        progress = None

        def poll(done, total):
            nonlocal progress
            # The first batch compiles: the time left is counted from its end.
            if progress is None:
                progress = ItemProgress(total, log_main, "images", start=done)
            else:
                progress.update(done, "evaluating")
            preemption.check()

        with preemption.nothing_to_lose(self._using.checkpoints.wait):
            evaluation = self._using.evaluator.evaluate(
                state.variables, self._config.snapshot_points, poll
            )
        self._using.snapshots.write(step, evaluation.snapshot)
        return evaluation

    def _last_saved(self):
        """The newest checkpoint's step once all saves are done, or None."""
        self._using.checkpoints.wait()
        return max(self._using.checkpoints.steps(), default=None)

    def _log_stop(self):
        saved = self._last_saved()
        if self._done == saved:
            log_main(f"stopped at step {saved}, saved; the same command resumes")
        else:
            resume = "the start" if saved is None else f"step {saved}"
            log_main(
                f"stopped at step {self._done}, not saved; the same command resumes at {resume}"
            )
