"""Class prototypes on the hypersphere, trained to Neural Collapse: losses, geometry, a trainer."""

import importlib
from typing import Any

# What is at the top level; a name is imported when it is first asked for, so that
# `import hsproto.losses` loads jax and numpy alone.
_MODULES = {"PrototypeClassifier": "hsproto.estimator", "load": "hsproto.inference"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("hsproto")
    if name not in _MODULES:
        raise AttributeError(f"module 'hsproto' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "hsproto").partition(".")[0] == "hsproto":
            raise
        raise ModuleNotFoundError(
            f"hsproto.{name} needs the package {error.name!r}, which is not installed: "
            "pip install 'hsproto[train]'",
            name=error.name,
        ) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "__version__"})
