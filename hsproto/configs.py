"""The recipes that come with hsproto: a line each, or one of them with all its keys.

  hsproto configs
  hsproto configs digits

`--config=NAME` takes a recipe from anywhere, `--config=NAME:key=value,...` changes keys of it.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["configs", *sys.argv[1:]])

from hsproto import packaged
from hsproto.errors import UserError


def main(argv: list[str]) -> int:
    """Run `hsproto configs` and return its exit status."""
    parser = cli.Parser(__doc__, prog="hsproto configs")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the recipe to show; default: all")
    args = parser.parse_args(argv)
    if args.name is None:
        print(packaged.listing())
        print("\n`hsproto configs NAME` shows one with its keys; train it with --config=NAME")
        return 0
    if args.name not in packaged.names():
        raise UserError(f"no recipe {args.name!r}; {packaged.instead_of(args.name)}")
    config = cli.load_config(args.name)
    print(f"{packaged.description(args.name)}\n\n{packaged.path_of(args.name)}\n")
    for key, value in config.items():
        print(f"  {key:<26}{value!r}")
    return 0
