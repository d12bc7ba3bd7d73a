"""The loop over training steps: log, evaluate, save."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto.data import long_tail
from hsproto.errors import UserError
from hsproto.parallel.processes import Preemption, all_processes, log_main
from hsproto.runs.metrics_log import MetricsWriter
from hsproto.runs.progress import Progress
from hsproto.runs.snapshots import SnapshotWriter
from hsproto.training import objective
from hsproto.training.checkpoint import Checkpoints
from hsproto.training.profiler import Profile
from hsproto.training.state import TrainState
from hsproto.training.step import make_train_step


class NonFiniteLoss(UserError):
    """The loss or the gradient of a step is NaN or infinite, and would be so again."""


@dataclasses.dataclass(frozen=True)
class Collaborators:
    """Where a loop gets its batches, what evaluates its states, and where its results go.

    `loader` is the training set's (`data.loader`). `evaluator.evaluate(variables, snapshot_points)`
    returns metrics and a snapshot (`evaluation.evaluator`, of which training knows nothing).
    """

    loader: Any
    evaluator: Any
    checkpoints: Checkpoints
    metrics: MetricsWriter
    snapshots: SnapshotWriter
    profile: Profile


def _is_finite(tree):
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


class TrainingLoop:
    """The loop over steps. The metrics of a step are read while the next one runs."""

    def __init__(self, config: ConfigDict, mesh: jax.sharding.Mesh, using: Collaborators):
        self.total = config_lib.total_steps(config)
        self.progress = Progress(self.total, config.batch_size, log_main)
        self._config, self._using = config, using
        log_prior = None
        if config.logit_adjustment:
            log_prior = objective.log_prior(long_tail.class_counts(using.loader.source))
        self._step = make_train_step(config, mesh, log_prior)
        self._is_finite = jax.jit(_is_finite)
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
        profile, metrics = self._using.profile, self._using.metrics
        batches = profile.batches(self._using.loader.batches(start, self.total - start))
        unread = evaluation = None
        # A run that was killed or preempted in an evaluation saved its state before it.
        if start and self._evaluates(start) and all_processes(not metrics.has_evaluation(start)):
            evaluation = self._evaluate_and_log(state, start)
        for step, batch in enumerate(batches, start=start + 1):
            state, measured = self._step(state, batch)
            profile.step(state)
            if unread:
                self._read(*unread)
            unread = (step, measured)
            last, stopping = step == self.total, preemption.reached(step)
            # Told to stop, it saves and ends; what the evaluation would write is made on resuming.
            evaluating = self._evaluates(step) and (last or not stopping)
            saving = step % self._save_every == 0 or last or stopping
            if evaluating or saving:
                # A state is evaluated or saved only once it and its loss are known to be finite.
                self._read(*unread)
                unread = None
                self._check_finite(state, step)
                self.progress.pause()
                profile.pause(state)
                # Saved first: an evaluation may fail, or be cut short.
                if saving:
                    self._using.checkpoints.save(step, state)
                if evaluating:
                    evaluation = self._evaluate_and_log(state, step)
                self.progress.start()
                profile.resume()
            if stopping and not last:
                self._log_stop(step)
                return None
        self.progress.pause()
        self._using.checkpoints.wait()
        # No step was left if the run was killed between its last checkpoint and its summary.
        return evaluation or self._evaluate(state, self.total)

    def _evaluates(self, step):
        return step % self._eval_every == 0 or step == self.total

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

    def _check_finite(self, state, step):
        """Raise NonFiniteLoss if a step with a finite loss has made parameters that are not."""
        if not self._is_finite(state.variables):
            raise self._non_finite(f"step {step} made parameters that are not finite")

    def _non_finite(self, what):
        saved = self._last_saved()
        return NonFiniteLoss(
            f"{what}; training stopped. Last good checkpoint: "
            f"{f'step {saved}' if saved else 'none yet'}. "
            "A lower base_lr, a higher temperature or a warm-up usually helps"
        )

    def _evaluate_and_log(self, state, step):
        evaluation = self._evaluate(state, step)
        metrics = {
            f"{split}/{name}": value
            for split, values in evaluation.metrics.items()
            for name, value in values.items()
        }
        self._using.metrics.write(step, metrics)
        log_main(
            f"step {step}  test accuracy {metrics['test/accuracy']:.4f}  train accuracy "
            f"{metrics['train/accuracy']:.4f}  train nc1 {metrics['train/nc1']:.3g}"
        )
        return evaluation

    def _evaluate(self, state, step):
        count = self._config.snapshot_points
        evaluation = self._using.evaluator.evaluate(state.variables, snapshot_points=count)
        self._using.snapshots.write(step, evaluation.snapshot)
        return evaluation

    def _last_saved(self):
        """The newest checkpoint's step once all saves are done, or None."""
        self._using.checkpoints.wait()
        return max(self._using.checkpoints.steps(), default=None)

    def _log_stop(self, step):
        saved = self._last_saved()
        if step == saved:
            log_main(f"stopped at step {step}, saved; the same command resumes")
        else:
            resume = "the start" if saved is None else f"step {saved}"
            log_main(f"stopped at step {step}, not saved; the same command resumes at {resume}")
