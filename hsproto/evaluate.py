"""Accuracy and geometry of a run, on the training set without augmentation and on the test set.

hsproto evaluate --workdir=runs/digits [--checkpoint=STEP] [--data_dir=DIR]

Of a finished run's end it writes predictions.npz too, for the report's confusion matrix, where an
earlier version has not.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["evaluate", *sys.argv[1:]])

import os
from typing import Any

from hsproto.errors import one_line
from hsproto.evaluation import command
from hsproto.evaluation.trained import TrainedRun
from hsproto.parallel import processes
from hsproto.runs import predictions_file
from hsproto.runs import summary as summary_lib


def evaluate(run: TrainedRun, args: Any) -> command.Results:
    """Measure accuracy and geometry of a run."""
    evaluation = run.evaluate(args.logit_adjustment)
    if processes.is_main():
        _keep_predictions(args.workdir, run, evaluation.predictions)
    summary = summary_lib.summarize(run.config, run.step, evaluation, run.mesh, None)
    return command.Results(None, summary_lib.format_table(summary))


def _keep_predictions(workdir, run, predictions):
    """Write those of a finished run's end, where an earlier version has not."""
    path = os.path.join(workdir, predictions_file.NAME)
    if os.path.exists(path) or not os.path.exists(os.path.join(workdir, "summary.json")):
        return
    if summary_lib.read_summary(workdir)["step"] != run.step:
        return
    try:
        predictions_file.write(workdir, run.step, predictions)
    except OSError as error:  # a workdir that one may only read can be measured too
        processes.log_main(f"note: {path} could not be written: {one_line(error)}")


def main(argv: list[str]) -> int:
    parser = command.make_parser(__doc__, "evaluate")
    parser.add_argument(
        "--logit_adjustment", type=float, default=1.0, metavar="STRENGTH",
        help="of accuracy_adjusted, where the training set is imbalanced; default: 1",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if not 0 <= args.logit_adjustment < float("inf"):
        parser.error(f"--logit_adjustment={args.logit_adjustment} must be zero or positive")
    return command.run("evaluate", args, evaluate)
