"""Accuracy and geometry of a run, on the training set without augmentation and on the test set.

hsproto evaluate --workdir=runs/digits [--checkpoint=STEP] [--logit_adjustment=1]
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["evaluate", *sys.argv[1:]])

from hsproto import config as config_lib
from hsproto.data import load as load_lib
from hsproto.data import loader
from hsproto.evaluation import trained
from hsproto.evaluation.evaluator import Evaluator, Loaders
from hsproto.parallel import mesh as mesh_lib
from hsproto.parallel import processes
from hsproto.runs import summary as summary_lib
from hsproto.runs.summary import summarize


def main(argv):
    parser = cli.Parser(__doc__, prog="hsproto evaluate")
    cli.add_run_flags(parser)
    parser.add_argument(
        "--logit_adjustment", type=float, default=1.0, metavar="STRENGTH",
        help="of accuracy_adjusted, where the training set is imbalanced; default: 1",
    )  # fmt: skip
    processes.add_flags(parser)
    args = parser.parse_args(argv)
    if not 0 <= args.logit_adjustment < float("inf"):
        parser.error(f"--logit_adjustment={args.logit_adjustment} must be zero or positive")
    processes.join(args)
    with processes.exit_if_process_lost():
        mesh = mesh_lib.make_mesh()
        config, state, step = trained.load_state(args.workdir, mesh, args.checkpoint)
        config_lib.validate(config)
        mesh_lib.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
        splits = load_lib.load_splits(config)
        feeds = Loaders(*(loader.open_loader(split, config, mesh) for split in splits))
        evaluator = Evaluator(config, feeds, mesh)
        found = evaluator.evaluate(state.variables, args.logit_adjustment)
    processes.log_main(summary_lib.format_table(summarize(config, step, found, mesh, None)))
    return 0
