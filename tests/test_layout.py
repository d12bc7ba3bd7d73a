"""The wings of the package stand above each other: no circle, and few floors."""

import ast
import configparser
import functools

from small_runs import ROOT

PACKAGE = ROOT / "hsproto"


def wing(module):
    return module.split(".")[1]


def imported(path):
    """The wings that a module imports when it is itself imported."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == "hsproto":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hsproto."):
            yield wing(node.module)


def test_the_longest_chain_of_imports_between_wings_is_short():
    below = {}
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        below.setdefault(own, set()).update(set(imported(path)) - {own})

    @functools.cache
    def chain(name, above=()):
        assert name not in above, f"a circle: {' -> '.join((*above, name))}"
        chains = [chain(other, (*above, name)) for other in sorted(below.get(name, ()))]
        return [name, *max(chains, key=len, default=[])]

    longest = max((chain(name) for name in below), key=len)
    assert len(longest) <= 8, " -> ".join(longest)


def test_all_packages_and_the_recipes_are_installed():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    folders = [path.parent.relative_to(ROOT) for path in PACKAGE.rglob("__init__.py")]
    packages = [".".join(folder.parts) for folder in folders]
    listed = settings["options"]["packages"].split()
    assert sorted(listed) == sorted([*packages, "hsproto.recipe_files"])
