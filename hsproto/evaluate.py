"""Accuracy and geometry of a run, on the training set without augmentation and on the test set.

hsproto evaluate --workdir=runs/digits [--checkpoint=STEP] [--data_dir=DIR]
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["evaluate", *sys.argv[1:]])

from typing import Any

from hsproto.evaluation import command
from hsproto.evaluation.trained import TrainedRun
from hsproto.runs import summary as summary_lib


def evaluate(run: TrainedRun, args: Any) -> command.Results:
    """Measure accuracy and geometry of a run."""
    evaluation = run.evaluate(args.logit_adjustment)
    summary = summary_lib.summarize(run.config, run.step, evaluation, run.mesh, None)
    return command.Results(None, summary_lib.format_table(summary))


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
