"""Pages that are one template and nothing else."""

import importlib.resources
from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """Return a template of this folder filled in; values are escaped."""
    folder = importlib.resources.files("hsproto.reporting.page") / "templates"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string((folder / template).read_text("utf-8")).render(values)
