"""Checkpoints of a run: saved asynchronously, whole or not at all; the newest few are retained."""

import os
import time
import warnings
from typing import Any

import orbax.checkpoint as ocp

from hsproto.errors import UserError, one_line
from hsproto.parallel import processes

FOLDER = "checkpoints"  # of a workdir
_MAX_LENGTH = 200  # of quoted errors: Orbax's and TensorStore's can fill pages


class Checkpoints:
    """The checkpoints in `workdir`/checkpoints, by step. Leaving the context waits for saves.

    `keep` is the number of checkpoints to retain, for a run that writes them; None to only read.
    `metadata`, as JSON holds it, is saved with each.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        keep: int | None = None,
        metadata: dict[str, Any] | None = None,
    ):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=bool(keep))
        self._keep, self._metadata = keep, metadata
        self._directory = os.path.abspath(os.path.join(workdir, FOLDER))
        # Without it Orbax warns, when metadata are read, that it cannot restore the checkpoint.
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(
            self._directory, options=options, item_handlers=handler
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    def steps(self) -> list[int]:
        """Return the steps of the committed checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """Return what was saved with the checkpoint of a step, or the newest; {} if nothing was."""
        step = max(self.steps(), default=None) if step is None else step
        if step is None:
            return {}
        try:
            return self._manager.metadata(step).custom_metadata or {}
        except Exception:  # Orbax raises many kinds; `restore` says what is damaged
            return {}

    def save(self, step: int, state: Any) -> None:
        """Start saving `state`, unless the step is saved already.

        Only warn if it cannot be written, e.g. to a full disk: a run can do without one checkpoint.
        """
        self.wait()
        if step not in self._manager.all_steps():
            args = ocp.args.StandardSave(state._asdict())
            self._attempt(
                lambda: self._manager.save(step, args=args, custom_metadata=self._metadata)
            )

    def wait(self) -> None:
        """Wait until the last save is committed or has failed."""
        self._attempt(self._manager.wait_until_finished)

    def _attempt(self, write):
        try:
            write()
        except Exception as error:  # Orbax and TensorStore raise many kinds
            steps = self.steps()
            newest = f"is of step {steps[-1]}" if steps else "is yet to be written"
            warnings.warn(
                f"a checkpoint could not be written: {one_line(error, _MAX_LENGTH)}; the run goes "
                f"on, its newest checkpoint {newest}",
                stacklevel=3,
            )

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, int] | None:
        """Return the state and step of the newest readable checkpoint, or of a given step.

        Checkpoints that cannot be read, even at a second attempt, are skipped with a warning; a run
        that writes checkpoints also renames them.

        Args:
            abstract_state: Shapes, dtypes, and the shardings that the arrays get, which may differ
                from those that they were saved with.
            step: The step to restore; None for the newest.

        Returns:
            (state, step), or None if there is no checkpoint.

        Raises:
            UserError: If there are checkpoints but none can be read, if the storage fails, or if
                there is none of `step`.
        """
        steps = self.steps()
        if step is not None:
            if step not in steps:
                available = ", ".join(map(str, steps)) or "none"
                raise UserError(
                    f"no checkpoint of step {step} in {self._directory}; available: {available}"
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
            if not processes.all_processes(error is None):  # all processes use the same one
                reason = one_line(error or "another process cannot read it", _MAX_LENGTH)
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
                "damaged or another version's; use another --workdir to start anew"
            )
        return None

    def _read(self, step, args):
        try:
            return self._manager.restore(step, args=args)
        except (
            Exception
        ):  # A second attempt distinguishes damage from storage that failed for a moment.
            time.sleep(1)
        try:
            return self._manager.restore(step, args=args)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno is None:
                raise
            raise UserError(
                f"the checkpoint of step {step} in {self._directory} cannot be reached "
                f"({one_line(error, _MAX_LENGTH)}): retry when the storage is back"
            ) from error

    def _set_aside(self, steps):
        # Under their names they would prevent the run from saving these steps again.
        processes.barrier("read")
        for step in steps if processes.is_main() else ():
            source = os.path.join(self._directory, str(step))
            os.rename(source, os.path.join(self._directory, f"unreadable_{step}_{time.time_ns()}"))
        processes.barrier("set aside")
        self._manager.reload()
