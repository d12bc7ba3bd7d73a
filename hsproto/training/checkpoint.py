"""Checkpoints of a run: asynchronous, committed whole or not at all, the newest few kept."""

import os
import time
import warnings

import orbax.checkpoint as ocp

from hsproto.errors import UserError, one_line
from hsproto.parallel import processes

_LENGTH = 200  # of what is told of an error: Orbax's and TensorStore's run to pages


class Checkpoints:
    """The checkpoints in `workdir`/checkpoints, by step. Leaving its context waits for saves."""

    def __init__(self, workdir, keep=None):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=bool(keep))
        self._keep = keep
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
        """Starts saving `state`; does nothing where the step is there already.

        What cannot be written, as to a full disk, is told in a warning and left out: a run can do
        without one of its checkpoints.
        """
        self.wait()
        if step not in self._manager.all_steps():
            args = ocp.args.StandardSave(state._asdict())
            self._attempt(lambda: self._manager.save(step, args=args))

    def wait(self):
        """Returns when what was started is committed or has failed."""
        self._attempt(self._manager.wait_until_finished)

    def _attempt(self, write):
        try:
            write()
        except Exception as error:  # Orbax and TensorStore raise many kinds
            kept = self.steps()
            newest = f"that of step {kept[-1]}" if kept else "yet to come"
            warnings.warn(
                f"a checkpoint could not be written: {one_line(error, _LENGTH)}; the run goes on, "
                f"its newest is {newest}",
                stacklevel=3,
            )

    def restore(self, abstract_state, step=None):
        """(state, step) of a step, or of the newest checkpoint that can be read; None without any.

        The arrays take the shardings of `abstract_state`, whatever they were saved from. A newest
        checkpoint that cannot be read, at a second try either, is passed over with a warning and,
        by a run that will write its own, set aside under another name. Raises UserError where the
        storage, and not the checkpoint, is what fails, and where none can be read.
        """
        steps = self.steps()
        if step is not None:
            if step not in steps:
                there = ", ".join(map(str, steps)) or "none"
                raise UserError(
                    f"no checkpoint of step {step} in {self._directory}; there: {there}"
                )
            steps = [step]
        unreadable = []
        for candidate in reversed(steps):
            args, error = ocp.args.StandardRestore(abstract_state._asdict()), None
            try:
                restored = self._read(candidate, args)
            except UserError:
                raise
            except Exception as raised:  # Orbax and TensorStore raise many kinds
                error = raised
            if not processes.all_processes(error is None):  # all go on from the same one
                reason = one_line(error or "another process cannot read it", _LENGTH)
                warnings.warn(
                    f"checkpoint of step {candidate} is not readable: {reason}", stacklevel=2
                )
                unreadable.append(candidate)
                continue
            if self._keep:
                self._set_aside(unreadable)
            return type(abstract_state)(**restored), candidate
        if steps:
            raise UserError(
                f"none of the checkpoints in {self._directory} can be read ({reason}): they are "
                "damaged or another version's; another --workdir starts anew"
            )
        return None

    def _read(self, step, args):
        try:
            return self._manager.restore(step, args=args)
        except Exception:  # A second try tells damage from storage that was away for a moment.
            time.sleep(1)
        try:
            return self._manager.restore(step, args=args)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno is None:
                raise
            raise UserError(
                f"the checkpoint of step {step} in {self._directory} cannot be reached "
                f"({one_line(error, _LENGTH)}): the same command goes on when the storage is back"
            ) from error

    def _set_aside(self, steps):
        # In its place it would keep the run from saving these steps again.
        processes.barrier("read")
        for step in steps if processes.is_main() else ():
            source = os.path.join(self._directory, str(step))
            os.rename(source, os.path.join(self._directory, f"unreadable_{step}_{time.time_ns()}"))
        processes.barrier("set aside")
        self._manager.reload()
