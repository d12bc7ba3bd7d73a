"""Checkpoints of a run: saved asynchronously, whole or not at all; the newest few are retained.

Each is stored with a digest of its arrays (`hsproto.training.inspection`), against which what is
restored is checked: storage that loses or flips bits gives another checkpoint or an error, never
other numbers.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from hsproto.errors import RunFailure, UserError, one_line
from hsproto.parallel import processes
from hsproto.runs.storage import Complaints, attempts
from hsproto.training import inspection, orbax_noise
from hsproto.training.best import Best, KeepBest

_MAX_LENGTH = 200  # of quoted errors: Orbax's and TensorStore's can fill pages
CONFIG = "config"  # of a run's config in the metadata of its checkpoints
_DIGEST = "digest"
_PAUSE = 1  # second before a second attempt to read


class Checkpoints:
    """The checkpoints in `workdir`/checkpoints, by step. Leaving the context waits for saves.

    `keep` is the number of checkpoints to retain, for a run that writes them; None to only read.
    `mark` is a file of the run in `workdir`: once it is gone, so is the run. (Orbax makes its own
    folder again.)
    `metadata`, as JSON holds it, is stored with each. `best` names one more to retain, while the
    run goes on.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        keep: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        mark: str = "checkpoints",
        best: Best | None = None,
    ):
        self._keep, self._added = keep, metadata or {}
        self._workdir = os.path.abspath(workdir)
        self._directory = os.path.join(self._workdir, "checkpoints")
        self._mark = os.path.join(self._workdir, mark)
        # The handler says that a checkpoint is one item; Orbax would guess from the first read.
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=_options(keep, best),
            item_handlers=ocp.StandardCheckpointHandler(),
        )
        self._complaints = Complaints()
        orbax_noise.silence()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    def steps(self) -> list[int]:
        """Return the steps of the committed checkpoints on the storage, ascending."""
        found = ocp.path.step.standard_name_format().find_all(self._directory)
        return sorted(metadata.step for metadata in found)

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """Return what is stored with the checkpoint of a step, or the newest; {} if unknown."""
        step = max(self.steps(), default=None) if step is None else step
        stored = None if step is None else self._metadata(step)
        return (stored and stored.custom_metadata) or {}

    def save(self, step: int, state: Any, digest: Mapping[str, int]) -> None:
        """Start saving `state`, of which `digest` is that of `inspection.inspect`.

        Nothing is done if the step is saved already. Only warn if it cannot be written, e.g. to a
        full disk: a run can do without one checkpoint.

        Raises:
            RunFailure: If the workdir was removed.
        """
        self.wait()
        self._check_workdir()
        if processes.all_processes(step in self.steps()):
            return
        args = ocp.args.StandardSave(state._asdict())
        metadata = {**self._added, _DIGEST: dict(digest)}
        self._attempt(lambda: self._manager.save(step, args=args, custom_metadata=metadata))

    def wait(self) -> None:
        """Wait until the last save is committed or has failed."""
        self._attempt(self._manager.wait_until_finished)

    def ensure(self, step: int, state: Any, digest: Mapping[str, int]) -> None:
        """Wait until `step` is saved, and save it again, some times, if that has failed.

        Raises:
            RunFailure: If it cannot be saved.
        """
        for _ in attempts():
            self.wait()
            self._check_workdir()
            if processes.all_processes(step in self.steps()):
                return
            self.save(step, state, digest)
        raise RunFailure(
            f"--workdir={self._workdir}: step {step}, the last, could not be saved "
            f"({self._complaints.last}); the same command repeats the steps since then when the "
            "storage is mended"
        )

    def _attempt(self, write):
        try:
            write()
        except Exception as error:  # Orbax and TensorStore raise many kinds
            # Orbax has listed the step that it could not write, and dropped one that it kept.
            with contextlib.suppress(Exception):
                self._manager.reload()
            self._complaints.warn(
                f"a checkpoint could not be written: {one_line(error, _MAX_LENGTH)}; the run goes "
                f"on, its newest checkpoint is {_of_step(self.steps())}"
            )

    def _check_workdir(self):
        try:
            os.stat(self._mark)
            exists = True
        except FileNotFoundError:
            exists = False
        except OSError:  # storage that is away for a moment
            exists = True
        if not processes.all_processes(exists):
            raise RunFailure(f"--workdir={self._workdir} was removed while its run went on")

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, int] | None:
        """Return the state and step of the newest good checkpoint, or of a given step.

        A checkpoint is bad if it cannot be read, even at a second attempt, if its arrays are not
        those that were saved, or not finite. Bad ones are skipped with a warning; a run that writes
        checkpoints also renames them. One that a run beside this reader has replaced is no longer
        there, and the next one is taken.

        Args:
            abstract_state: Shapes, dtypes, and the shardings that the arrays get, which may differ
                from those that they were saved with.
            step: The step to restore; None for the newest.

        Returns:
            (state, step), or None if there is no checkpoint.

        Raises:
            UserError: If there are checkpoints but none is good, if the storage fails, or if there
                is none of `step`.
        """
        bad, reasons = [], []
        while (candidate := self._next(step, bad)) is not None:
            restored, reason = self._restore(candidate, abstract_state)
            if processes.all_processes(reason is None):  # all processes use the same one
                if self._keep:
                    steps = self.steps()
                    self._set_aside([s for s in steps if s in bad or self._metadata(s) is None])
                return restored, candidate
            bad.append(candidate)
            if self._is_gone(candidate):
                continue
            reasons.append(reason or "another process cannot read it")
            self._complaints.say(f"checkpoint of step {candidate} is not readable: {reasons[-1]}")
        if reasons:
            raise UserError(
                f"none of the checkpoints in {self._directory} can be read ({reasons[-1]}): they "
                "are damaged or another version's; use another --workdir to start anew"
            )
        return None

    def _next(self, step, bad):
        """The newest step that is not `bad`, or `step` unless it is."""
        steps = self.steps()
        if step is None:
            return max((each for each in steps if each not in bad), default=None)
        if step in bad:
            return None
        if step not in steps:
            available = ", ".join(map(str, steps)) or "none"
            raise UserError(
                f"no checkpoint of step {step} in {self._directory}; available: {available}"
            )
        return step

    def _restore(self, step, abstract_state):
        """(state, None) of a good checkpoint, (None, reason) of a bad one."""
        args = ocp.args.StandardRestore(abstract_state._asdict())
        try:
            state = type(abstract_state)(**self._read(step, args))
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds
            return None, one_line(error, _MAX_LENGTH)
        seen = inspection.inspect(state)
        if not seen.is_finite:
            return None, "it holds numbers that are not finite"
        metadata = self._metadata(step)
        if metadata is None:
            return None, "its metadata are damaged"
        stored = metadata.custom_metadata  # empty in checkpoints of the first version
        if stored and stored.get(_DIGEST) != seen.digest:
            return None, "its arrays are not those that were saved"
        return state, None

    def _metadata(self, step):
        """What Orbax has stored beside a checkpoint's arrays; None if it is damaged."""
        try:
            metadata = self._manager.metadata(step)
        except Exception:  # Orbax raises many kinds
            return None
        # Where it is no JSON at all, Orbax returns it empty.
        return metadata if metadata.init_timestamp_nsecs is not None else None

    def _is_gone(self, step):
        """Whether a run that goes on has removed the checkpoint that was to be read."""
        return not processes.all_processes(step in self.steps())

    def _read(self, step, args):
        try:
            return self._manager.restore(step, args=args)
        except Exception:
            # A second attempt distinguishes damage from storage that failed for a moment.
            time.sleep(_PAUSE)
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


def _options(keep, best):
    return ocp.CheckpointManagerOptions(
        max_to_keep=None if best else keep,
        preservation_policy=KeepBest(keep, best) if best else None,
        create=bool(keep),
        # Reading the metadata of all checkpoints would fail for a single damaged one.
        lightweight_initialize=True,
        cleanup_tmp_directories=bool(keep),
        async_options=ocp.AsyncOptions(
            # Made by a thread, a folder that cannot be made leaves other threads waiting for it.
            create_directories_asynchronously=False,
            # Orbax measures by the wall clock, whose jumps would end saves. Several processes do
            # wait for each other, and one may fail to write.
            timeout_secs=10**9 if jax.process_count() == 1 else 300,
        ),
    )


def _of_step(steps):
    return f"that of step {steps[-1]}" if steps else "yet to be written"
