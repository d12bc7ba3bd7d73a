"""The mesh and the two shardings of a run: batches are split over `data`, all else replicated."""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hsproto.errors import UserError


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a one-dimensional mesh, by default over all devices of all processes.

    Its axis `data` is Auto: under `jax.jit` the compiler inserts the collectives, so that a program
    computes on a batch split over devices what it computes on one device.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def over_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Return the sharding that splits an axis, that of the rows, over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding with the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_divisible(key: str, size: int, mesh: Mesh) -> None:
    """Raise UserError unless a batch of `size` rows can be split evenly over the mesh."""
    if size % mesh.size:
        raise UserError(
            f"config key {key}={size} must be divisible by the number of devices, {mesh.size}"
        )
