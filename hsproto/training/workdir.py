"""A workdir as a run takes it: owned by it alone, shared by its processes, of the same config."""

import contextlib
import os
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto.errors import UserError
from hsproto.parallel import processes
from hsproto.parallel.processes import log_main
from hsproto.runs import config_file, owner


@contextlib.contextmanager
def owned(workdir: str) -> Iterator[None]:
    """Create `workdir` and own it, in the main process for all."""
    try:
        os.path.abspath(workdir).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"--workdir={workdir} is not UTF-8, as Orbax wants it: use another name"
        ) from None
    if os.path.isfile(workdir):
        raise UserError(f"--workdir={workdir} is a file; name a folder")
    try:
        os.makedirs(workdir, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} is not writable: {error.strerror}") from None
    with contextlib.ExitStack() as stack:
        if processes.is_main():
            stack.enter_context(owner.owned(workdir, log=log_main, on_lost=_stop_writing(workdir)))
        processes.barrier("owned")
        yield


def _stop_writing(workdir):
    def stop(other):
        os.write(2, f"hsproto: --workdir={workdir} was taken over by {other}: stopped\n".encode())
        os._exit(1)

    return stop


def claim(workdir: str, config: ConfigDict) -> ConfigDict | None:
    """Return the config of the run that `workdir` holds, or None.

    Raises UserError if it is not writable, not shared by all processes, or holds another run.
    """
    mark = os.path.join(workdir, f".process_{jax.process_index()}")
    try:
        with open(mark, "w"):
            pass
        processes.barrier("claimed")
        count = jax.process_count()
        seen = sum(os.path.exists(os.path.join(workdir, f".process_{i}")) for i in range(count))
        processes.barrier("seen")
        os.remove(mark)
    except OSError as error:
        raise UserError(f"--workdir={workdir} is not writable: {error.strerror}") from None
    if seen < count:
        raise UserError(
            f"--workdir={workdir} must be the same folder for all {count} processes: process "
            f"{jax.process_index()} sees the files of {seen}"
        )
    earlier = config_file.read(workdir)
    if earlier is not None:
        check_same_run(workdir, config, earlier)
    return earlier


def check_same_run(workdir: str, config: ConfigDict, earlier: ConfigDict) -> None:
    """Raise UserError if a workdir holds a run of another config, in what is known of both."""
    # Values that come from the data are compared once the data are read.
    from_data = "dataset num_classes num_examples mean std channels interpolation".split()
    unknown = [k for k in from_data if not (config[k] and earlier[k])]
    unknown += ["crop_on"] if config.crop_on == "auto" else []
    unknown += ["freeze_epochs"] if config.freeze_epochs < 0 else []
    changed = [k for k in config_lib.differences(config, earlier) if k not in unknown]
    if changed:
        values = ", ".join(
            f"{k}={config_lib.shown(earlier[k])} there, {config_lib.shown(config[k])} here"
            for k in changed
        )
        renamed = f", or dataset={earlier.dataset} if only the data's file was renamed"
        raise UserError(
            f"--workdir={workdir} holds a run of another config ({values}); use another workdir"
            f"{renamed * (changed == ['dataset'])}"
        )
