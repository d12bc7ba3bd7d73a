"""What the commands that measure a run share: flags, processes, the opened run, results, table."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from hsproto import cli
from hsproto.errors import UserError
from hsproto.evaluation.trained import TrainedRun
from hsproto.parallel import processes
from hsproto.runs import measurements

# Flags that the processes of a command need not have in common.
_EACH_ITS_OWN = ("process_id", "startup_timeout", "data_dir")


class Results(NamedTuple):
    """What a command measured: the content of WORKDIR/NAME.json, if any, and a table to print."""

    content: dict[str, Any] | None
    table: str


def make_parser(doc: str | None, name: str, reads_data: bool = True) -> cli.Parser:
    """Return the parser of `hsproto NAME` with the flags that all measuring commands have.

    Args:
        doc: of the command.
        name: of the command.
        reads_data: whether the command reads the data of the run, which may have moved.
    """
    parser = cli.Parser(doc, prog=f"hsproto {name}")
    cli.add_run_flags(parser)
    parser.set_defaults(run_data_dir="")
    if reads_data:
        parser.add_argument(
            "--data_dir",
            dest="run_data_dir",
            type=cli.local_path,
            metavar="DIR",
            help="where the run's data are now; default: where they were",
        )
    processes.add_flags(parser)
    return parser


def run(
    name: str, args: Any, measure: Callable[[TrainedRun, Any], Results], images: bool = False
) -> int:
    """Join the processes, measure the run of `args`, write its results and print their table.

    Args:
        name: of the command.
        args: the parsed flags of a `make_parser`.
        measure: called with the opened run and `args`.
        images: whether the command needs a run that was trained on images.
    """
    processes.join(args)
    with processes.together():
        flags = {key: str(value) for key, value in vars(args).items() if key not in _EACH_ITS_OWN}
        processes.agree({"flags": flags})
        opened = TrainedRun(args.workdir, args.checkpoint, args.run_data_dir)
        if images and opened.config.source == "features":
            raise UserError(
                f"--workdir={args.workdir} was trained on features, and `hsproto {name}` needs a "
                "run on images"
            )
        results = measure(opened, args)
        if results.content is not None:
            write_results(args.workdir, name, results.content)
        processes.log_main(results.table)
    return 0


def write_results(workdir: str, name: str, content: dict[str, Any]) -> None:
    """Write WORKDIR/NAME.json, in the main process."""
    if processes.is_main():
        measurements.write(workdir, name, content)


def run_name(workdir: str) -> str:
    """Return the name of the run in a workdir: that of its folder."""
    return os.path.basename(os.path.normpath(workdir))
