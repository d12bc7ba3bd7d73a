"""Axes of meshes and maps: Explicit mesh axes as Auto ones, and the names of mapped axes."""

import functools
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, TypeAlias, TypeVar

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hsproto.core.numerics import jax_array

# The name of a mapped axis, or a tuple of such names.
AxisName: TypeAlias = Hashable

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def on_any_mesh(
    *dims: str | None,
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Decorate a function written for Auto mesh axes so that it also accepts Explicit ones.

    Where an argument is sharded over Explicit axes, the function runs with these axes set to Auto,
    and its result gets the sharding given by `dims`; anywhere else it is called as it is.

    Args:
        *dims: For each axis of the results, the argument whose rows it holds (its first axis), or
            None for an axis that is not sharded. Missing axes are not sharded.
    """

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        names = function.__code__.co_varnames  # type: ignore[attr-defined]

        @functools.wraps(function)
        def on_auto_axes(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            named = dict(zip(names, args, strict=False)) | kwargs
            leaves, tree = jax.tree.flatten(named)
            leaves = [jax_array(x) for x in leaves]
            arrays = {i: x for i, x in enumerate(leaves) if isinstance(x, jax.Array)}
            meshes = [jax.typeof(x).sharding.mesh for x in arrays.values()]
            mesh = next((mesh for mesh in meshes if _explicit(mesh)), None)
            if mesh is None:
                return function(*args, **kwargs)

            def run(arrays: dict[int, jax.Array]) -> _Result:
                filled = [arrays.get(i, x) for i, x in enumerate(leaves)]
                return function(**jax.tree.unflatten(tree, filled))  # type: ignore[call-arg]

            spec: list[Any] = []
            for dim in dims:
                axes = _axes_of_rows(named.get(dim)) if dim is not None else None
                spec.append(axes if axes not in spec else None)
            out = NamedSharding(mesh, PartitionSpec(*spec))
            run_auto: Any = jax.sharding.auto_axes(run, axes=_explicit(mesh), out_sharding=out)
            return run_auto(arrays)

        return on_auto_axes

    return decorate


def _explicit(mesh: jax.sharding.AbstractMesh) -> tuple[str, ...]:
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in types if kind == AxisType.Explicit)


def _axes_of_rows(array: Any) -> Any:
    """The Explicit mesh axes over which the rows of an array are sharded; None for none."""
    array = jax_array(array)
    if not isinstance(array, jax.Array) or not (spec := jax.typeof(array).sharding.spec):
        return None
    return spec[0]
