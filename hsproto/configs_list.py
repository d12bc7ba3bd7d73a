"""List the packaged recipes, or show one: `--config=NAME` finds them from any folder.

hsproto configs
hsproto configs photos
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["configs", *sys.argv[1:]])

import ast

from hsproto import config as config_lib
from hsproto.errors import UserError


def main(argv: list[str]) -> int:
    """Run `hsproto configs` and return its exit status."""
    parser = cli.Parser(__doc__, prog="hsproto configs")
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a recipe; default: a line on each of them"
    )
    args = parser.parse_args(argv)
    paths = cli.recipes()
    if args.name is None:
        for name, path in paths.items():
            print(f"{name:<16}{_head(path).splitlines()[0]}")
        print("\nhsproto configs NAME shows a recipe; hsproto train --config=NAME ... trains it.")
        return 0
    if args.name not in paths:
        raise UserError(f"{args.name!r} is no packaged recipe: use one of {', '.join(paths)}")
    config, usual = cli.load_config(args.name), config_lib.default()
    print(_head(paths[args.name]))
    print("Keys that differ from the defaults:")
    for key in config_lib.default():
        if config[key] != usual[key]:
            print(f"  {key}={config[key]}")
    return 0


def _head(path):
    with open(path, encoding="utf-8") as file:
        return ast.get_docstring(ast.parse(file.read())) + "\n"
