"""One process of several that exchange a number again and again, until one fails or is lost."""

import time

from hsproto import cli
from hsproto.errors import RunFailure, UserError
from hsproto.parallel import processes, watchdog

ERRORS = {"user": UserError("its data is missing"), "failure": RunFailure("its storage is full")}


def main(argv):
    watchdog.LOOK_SECONDS, watchdog.SILENT_LOOKS = 0.5, 6
    parser = cli.Parser(__doc__)
    parser.add_argument("--error", default="")
    parser.add_argument("--rounds", type=int, default=1000)
    processes.add_flags(parser)
    args = parser.parse_args(argv)
    processes.join(args)
    with processes.together():
        processes.agree({"rounds": args.rounds})
        processes.barrier("agreed")
        print("ready", flush=True)
        if args.error:
            raise ERRORS.get(args.error) or KeyError(args.error)
        for _ in range(args.rounds):
            processes.all_processes(True)
            time.sleep(0.05)
    print("done", flush=True)
    return 0
