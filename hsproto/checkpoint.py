"""Checkpoints of a run: asynchronous, committed whole or not at all, the newest few kept."""

import os
import warnings

import orbax.checkpoint as ocp

from hsproto.errors import UserError


class Checkpoints:
    """The checkpoints in `workdir`/checkpoints, by step. Leaving its context waits for saves."""

    def __init__(self, workdir, keep=None):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=bool(keep))
        self._directory = os.path.abspath(os.path.join(workdir, "checkpoints"))
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    def steps(self):
        """Steps of the committed checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step, state):
        """Starts saving `state`; does nothing where the step is there already."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state._asdict()))

    def wait(self):
        """Returns when what was started is committed."""
        self._manager.wait_until_finished()

    def restore(self, abstract_state, step=None):
        """(state, step) of a step, or of the newest checkpoint that can be read; None without any.

        The arrays take the shardings of `abstract_state`, whatever they were saved from. A newest
        checkpoint that cannot be read is passed over with a warning.
        """
        steps = self.steps()
        if step is not None:
            if step not in steps:
                there = ", ".join(map(str, steps)) or "none"
                raise UserError(
                    f"no checkpoint of step {step} in {self._directory}; there: {there}"
                )
            steps = [step]
        for candidate in reversed(steps):
            args = ocp.args.StandardRestore(abstract_state._asdict())
            try:
                restored = self._manager.restore(candidate, args=args)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                reason = " ".join(str(error).split())[:200]
                warnings.warn(
                    f"checkpoint of step {candidate} is not readable: {reason}", stacklevel=2
                )
                continue
            return type(abstract_state)(**restored), candidate
        if steps:
            raise UserError(
                f"none of the checkpoints in {self._directory} can be read; "
                "remove the folder to start again"
            )
        return None
