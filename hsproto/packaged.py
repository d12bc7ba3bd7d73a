"""The recipes that come with the package, by name: `--config=digits` is found from anywhere.

They are the files of the clone's `configs/`, which an installed package holds as
`hsproto/recipe_files`.
"""

import ast
import difflib
import os

_FOLDERS = ("recipe_files", os.path.join(os.pardir, "configs"))


def folder() -> str:
    """Return the folder of the recipes."""
    package = os.path.dirname(os.path.abspath(__file__))
    found = (os.path.normpath(os.path.join(package, name)) for name in _FOLDERS)
    return next(path for path in found if os.path.isdir(path))


def names() -> list[str]:
    """Return the recipes' names, sorted."""
    files = os.listdir(folder())
    return sorted(name[:-3] for name in files if name.endswith(".py") and name[0] != "_")


def path_of(location: str) -> str:
    """Return the path of a config file: `location` itself, or that of the recipe of this name."""
    if os.path.isfile(location) or location not in names():
        return location
    return os.path.join(folder(), f"{location}.py")


def description(name: str) -> str:
    """Return what a recipe says of itself: the text on top of its file."""
    with open(os.path.join(folder(), f"{name}.py"), encoding="utf-8") as file:
        return ast.get_docstring(ast.parse(file.read())) or ""


def listing() -> str:
    """Return the recipes as text, a line each."""
    known = names()
    width = max(map(len, known)) + 2
    titles = [description(name).splitlines()[0] for name in known]
    return "\n".join(f"  {name:<{width}}{title}" for name, title in zip(known, titles, strict=True))


def instead_of(location: str) -> str:
    """Return what to say where there is no file `location`: the recipe it may have meant."""
    known = names()
    stem = os.path.basename(location).removesuffix(".py")
    if near := difflib.get_close_matches(stem, known, n=1):
        return f"the recipe {near[0]!r} is --config={near[0]}"
    return f"the recipes are {', '.join(known)}"
