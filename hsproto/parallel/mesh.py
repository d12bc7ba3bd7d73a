"""The mesh and the shardings of a run.

Batches are split over all devices and all else is replicated, unless classes are split too: then
the devices form a grid, and prototypes are split over its axis `model`. The rows that a device
shares with the others of that axis are gathered where they meet the prototypes.
"""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hsproto.errors import UserError

MODEL_AXIS = "model"


def make_mesh(devices: Sequence[jax.Device] | None = None, model_axis: int = 1) -> Mesh:
    """Return a mesh, by default over all devices of all processes.

    It has one axis, `data`, or with `model_axis` > 1 a second one, `model`, of that many devices.

    They are Auto: under `jax.jit` the compiler inserts the collectives, so that a program
    computes on a batch split over devices what it computes on one device.

    Raises:
        UserError: `model_axis` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % model_axis:
        raise UserError(
            f"config key model_axis={model_axis} must divide the number of devices, {len(devices)}"
        )
    if model_axis > 1:
        shape, names = (len(devices) // model_axis, model_axis), ("data", MODEL_AXIS)
        return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * 2, devices=devices)
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def over_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Return the sharding that splits an axis, that of the rows, over all devices."""
    if not splits_classes(mesh):
        return over_data(mesh, axis)
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names))


def over_data(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Return the sharding that splits an axis over `data` alone."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def splits_classes(mesh: Mesh) -> bool:
    """Return whether classes are split over the devices of an axis."""
    return MODEL_AXIS in mesh.axis_names


def over_classes(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what has a row for each class."""
    return NamedSharding(mesh, PartitionSpec(*[MODEL_AXIS] * splits_classes(mesh)))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding with the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_divisible(key: str, size: int, mesh: Mesh) -> None:
    """Raise UserError unless a batch of `size` rows can be split evenly over the mesh."""
    if size % mesh.size:
        raise UserError(
            f"config key {key}={size} must be divisible by the number of devices, {mesh.size}"
        )
