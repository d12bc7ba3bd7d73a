"""Sphinx configuration: `sphinx-build -W -b html docs site`. Needs no network."""

import importlib.metadata
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

project = "hsproto"
author = "the hsproto authors"
release = version = importlib.metadata.version("hsproto")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
# The report writes its tables as sections of one document, below a heading of its own.
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source", "Sources"]

html_theme = "furo"
html_title = "hsproto"
html_show_copyright = False


def _keep_bars(app, what, name, obj, options, lines):
    # Docstrings write |x| for lengths, which reST takes for a substitution. A bar of the same width
    # keeps tables in shape.
    lines[:] = [line.replace("|", "\N{DIVIDES}") for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", _keep_bars)
