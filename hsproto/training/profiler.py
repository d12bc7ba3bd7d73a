"""Where the time of training steps goes: a JAX trace, and the share that waited for input."""

import os
import time

import jax

# The first steps compile, and find the loader's buffers empty or full by chance.
WARM_UP_STEPS = 10


class Profile:
    """Watches `steps` steps of a loop, those after WARM_UP_STEPS; none where `steps` is 0.

        with Profile(workdir, steps, say) as profile:
            for batch in profile.batches(batches):
                state, metrics = train_step(state, batch)
                profile.step(state)

    Writes a trace to `workdir`/profile (of several processes: profile/process_0 and so on) and says
    one line. The device is drained before the clock starts and before it stops. Waiting is the time
    in which the loop asked for a batch and had none; the device may have been busy meanwhile with
    the step before, so that this is the most that faster input could save.
    """

    def __init__(self, workdir, steps, say=print):
        self.path = os.path.join(workdir, "profile")
        if jax.process_count() > 1:
            self.path = os.path.join(self.path, f"process_{jax.process_index()}")
        self._steps, self._say = steps, say
        self._done = 0
        self._seconds = self._waited = 0.0
        self._tracing, self._since = False, None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        whole = self._done >= WARM_UP_STEPS + self._steps
        if self._tracing:
            self._stop_trace()
        if kind is None and self._steps and not whole:
            self._say(
                f"--profile={self._steps}: the run ended after {self._done} steps, and a profile "
                f"begins after {WARM_UP_STEPS}"
            )
            self._report()

    def batches(self, batches):
        """The same batches, with the time that each lets the loop wait."""
        batches = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            if self._since is not None:
                self._waited += time.perf_counter() - asked
            yield batch

    def step(self, state):
        """Counts a step that was dispatched; `state` is what it gives."""
        self._done += 1
        if self._steps and self._done == WARM_UP_STEPS:
            jax.block_until_ready(state)
            self._begin()
        elif self._tracing and self._done == WARM_UP_STEPS + self._steps:
            self.pause(state)
            self._stop_trace()
            self._report()

    def pause(self, state):
        """The clock stands still, for an evaluation or a save."""
        if self._since is not None:
            jax.block_until_ready(state)
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def resume(self):
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
        self._say(
            f"profile of {watched} steps: {1e3 * self._seconds / watched:.1f} ms a step, "
            f"{100 * self._waited / self._seconds:.1f} % of it waiting for input; trace in "
            f"{self.path}, for xprof or TensorBoard's profile plugin, or its .trace.json.gz "
            "for ui.perfetto.dev"
        )
