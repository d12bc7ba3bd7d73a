"""Profile of training steps: a JAX trace, and the share of time spent waiting for input."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

# The first steps compile, and the state of the loader's buffers is arbitrary.
WARM_UP_STEPS = 10


class Profile:
    """Profiles `steps` steps of a loop, after WARM_UP_STEPS; none if `steps` is 0.

        with Profile(workdir, steps, log) as profile:
            for batch in profile.batches(batches):
                state, metrics = train_step(state, batch)
                profile.step(state)

    Writes a trace to `workdir`/profile (profile/process_0, ... if several processes) and logs one
    line. The device is idle when the clock starts and when it stops. Waiting is the time in which
    the loop requested a batch; since the device may have been busy with the previous step, it is an
    upper bound on what faster input could save.
    """

    def __init__(self, workdir: str | os.PathLike, steps: int, log: Callable[[str], None] = print):
        self.path = os.path.join(workdir, "profile")
        if jax.process_count() > 1:
            self.path = os.path.join(self.path, f"process_{jax.process_index()}")
        self._steps, self._log = steps, log
        self._done = 0
        self._seconds = self._waited = 0.0
        self._tracing, self._since = False, None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        complete = self._done >= WARM_UP_STEPS + self._steps
        if self._tracing:
            self._stop_trace()
        if kind is None and self._steps and not complete:
            self._log(
                f"--profile={self._steps}: the run ended after {self._done} steps, but profiles "
                f"begin after {WARM_UP_STEPS}"
            )
            self._report()

    def batches(self, batches: Iterable) -> Iterator:
        """Yield the batches, measuring how long the loop waits for each."""
        batches = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            if self._since is not None:
                self._waited += time.perf_counter() - start
            yield batch

    def step(self, state: Any) -> None:
        """Count a dispatched step, whose result is `state`."""
        self._done += 1
        if self._steps and self._done == WARM_UP_STEPS:
            jax.block_until_ready(state)
            self._begin()
        elif self._tracing and self._done == WARM_UP_STEPS + self._steps:
            self.pause(state)
            self._stop_trace()
            self._report()

    def pause(self, state: Any) -> None:
        """Stop the clock, for an evaluation or a save."""
        if self._since is not None:
            jax.block_until_ready(state)
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def resume(self) -> None:
        if self._tracing:
            self._since = time.perf_counter()

    def _begin(self):
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # A trace of every Python call would slow the loop down.
        jax.profiler.start_trace(self.path, profiler_options=options)
        self._tracing = True
        self.resume()

    def _stop_trace(self):
        self._tracing, self._since = False, None
        jax.profiler.stop_trace()

    def _report(self):
        if not self._seconds:
            return
        watched = self._done - WARM_UP_STEPS
        self._log(
            f"profile of {watched} steps: {1e3 * self._seconds / watched:.1f} ms per step, "
            f"{100 * self._waited / self._seconds:.1f} % of it waiting for input; trace in "
            f"{self.path}, for xprof or TensorBoard's profile plugin, or its .trace.json.gz "
            "for ui.perfetto.dev"
        )
