"""Whether the data are those that a run was trained on: its data.json, else its checkpoint's."""

from typing import Any

from hsproto.data import fingerprint as fingerprint_lib
from hsproto.runs import data_file
from hsproto.training.checkpoint import Checkpoints

KEY = "data"  # of a fingerprint in the metadata of a checkpoint


def check(workdir: str, now: dict[str, Any], way_out: str, step: int | None = None) -> None:
    """Compare the fingerprint of the data that are there with the run's; write nothing.

    A run of a version that kept none passes.

    Args:
        workdir: The run's folder.
        now: The fingerprint (`data.fingerprint`) of the data.
        way_out: Ends the message.
        step: Of the checkpoint that is asked where the folder has no data.json; None: the newest.

    Raises:
        UserError: The data differ; the message names how.
    """
    earlier = data_file.read(workdir) or _of_checkpoint(workdir, step)
    if earlier is not None:
        fingerprint_lib.check_same(earlier, now, f"--workdir={workdir}", way_out)


def _of_checkpoint(workdir, step):
    with Checkpoints(workdir) as checkpoints:
        stored = checkpoints.metadata(step).get(KEY)
    return stored if data_file.is_fingerprint(stored) else None
