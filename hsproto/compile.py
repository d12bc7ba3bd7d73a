"""Compile a run for hardware that is not there: does it fit, what does a step take at least?

  hsproto compile --config=imagenet:loss=nonl,batch_size=8192 --topology=v5e-64

The vendors' own compilers build the training step and the evaluation from shapes alone: no chip, no
data. TPUs need the extra compile-tpu, NVIDIA's GPUs compile-gpu. Prints what a chip's memory would
hold, FLOPs, memory traffic, what chips exchange and for which part of the method, and a bound on
the step's time. If it does not fit, the changes that make it fit, each tried by compiling; the exit
status is then 1.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["compile", *sys.argv[1:]])

import functools
import json

from hsproto.hardware import sizing, tables, topologies


def main(argv: list[str]) -> int:
    """Run `hsproto compile` and return its exit status: 1 if the run does not fit."""
    parser = cli.Parser(__doc__, prog="hsproto compile")
    parser.add_argument(
        "--topology", metavar="NAME", required=True,
        help=f"the hardware: {topologies.EXAMPLES}; cpuxN: N simulated devices of this machine",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead")
    parser.add_argument(
        "--fresh", action="store_true", help="compile, though the same was compiled before"
    )
    parser.add_argument(
        "--no_remedies", action="store_true",
        help="if it does not fit, do not look for what would make it fit",
    )  # fmt: skip
    parser.add_argument(
        "--save", type=cli.local_path, metavar="FILE",
        help="keep the compiled training step, with the versions that it needs",
    )  # fmt: skip
    args, config = parser.parse_with_config(argv)
    topology = topologies.parse(args.topology)
    log = functools.partial(print, file=sys.stderr, flush=True)
    result = sizing.size(config, topology, log, args.fresh, args.save or "")
    if args.save:
        written = "wrote {}" if result["fits"] else "{} is not written: the step does not fit"
        log(written.format(args.save))
    found = []
    if not result["fits"] and not args.no_remedies:
        found = list(sizing.remedies(config, topology, log, args.fresh))
    if args.json:
        remedies = {change: each for change, each in found}
        print(json.dumps(result | {"remedies": remedies}, indent=1))
    else:
        print(tables.describe(result))
        if not result["fits"] and not args.no_remedies:
            print(tables.describe_remedies(found))
    return 0 if result["fits"] else 1
