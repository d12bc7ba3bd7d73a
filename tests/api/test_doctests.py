"""The examples in the docstrings of the public functions run as printed."""

import doctest
import inspect

import pytest

from hsproto import geometry, losses, prototypes

# `doctest.testmod` would skip the functions that these modules only re-export.
EXAMPLES = {
    test.name: test
    for module in (losses, geometry, prototypes)
    for public in module.__all__
    for test in doctest.DocTestFinder(exclude_empty=False).find(
        getattr(module, public), f"{module.__name__}.{public}", globs={}
    )
    if not test.name.rpartition(".")[2].startswith("_")
}
WITHOUT = {"hsproto.prototypes." + name for name in ("init", "update", "merge", "finish")}


@pytest.mark.parametrize("name", sorted(name for name, test in EXAMPLES.items() if test.examples))
def test_an_example_gives_what_it_prints(name):
    assert doctest.DocTestRunner().run(EXAMPLES[name]).failed == 0


def test_every_public_function_has_an_example():
    functions = {
        f"{module.__name__}.{name}"
        for module in (losses, geometry, prototypes)
        for name in module.__all__
        if inspect.isfunction(getattr(module, name))
    } | {"hsproto.losses.PerAnchor.mean"}
    assert functions - WITHOUT == {name for name, test in EXAMPLES.items() if test.examples}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_public_docstrings_open_with_one_sentence(name):
    first, *rest = EXAMPLES[name].docstring.strip().split("\n")
    assert first.endswith(".") and (not rest or not rest[0].strip())
