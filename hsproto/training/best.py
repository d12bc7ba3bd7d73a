"""The best state of a run by its evaluations, kept beside the newest."""

import os
from collections.abc import Sequence
from typing import Any

from orbax.checkpoint import checkpoint_managers

from hsproto.runs import metrics_log

MEASURE = "test/accuracy"


class Best:
    """The step whose evaluation found the highest accuracy, the last of equals.

    Attributes:
        step: None before any evaluation.
        accuracy: Of that step, 0..1.
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.accuracy = -1.0

    def see(self, step: int, metrics: dict[str, Any]) -> None:
        """Take note of an evaluation; metrics by their names in metrics.jsonl."""
        accuracy = metrics.get(MEASURE)
        if accuracy is not None and accuracy >= self.accuracy:
            self.step, self.accuracy = step, accuracy

    def resume(self, workdir: str, start: int, steps: Sequence[int]) -> None:
        """Take note of what the run had logged up to step `start`, of the states there still are.

        Args:
            workdir: The run's folder.
            start: Where it goes on.
            steps: The checkpoints that are there.
        """
        for record in metrics_log.read_metrics(os.path.join(workdir, "metrics.jsonl")):
            if record["step"] <= start and record["step"] in steps:
                self.see(record["step"], record)


class KeepBest(checkpoint_managers.PreservationPolicy):
    """Orbax keeps the newest checkpoints and the best one."""

    def __init__(self, newest: int, best: Best):
        self._newest, self._best = newest, best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        first = len(checkpoints) - self._newest
        return [i >= first or each.step == self._best.step for i, each in enumerate(checkpoints)]
