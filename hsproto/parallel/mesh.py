"""The mesh and the two shardings of a run: the batch is split over `data`, the rest replicated."""

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hsproto.errors import UserError


def make_mesh(devices=None):
    """A one-dimensional mesh over all devices of all processes, its axis called `data`.

    The axis is Auto: under `jax.jit` the compiler places the collectives, and a batch split over
    devices means what it means on one.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def over_batch(mesh, axis=0):
    """Rows, which are the axis of that number, split over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def replicated(mesh):
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_divisible(key, size, mesh):
    """Raises UserError unless a batch of `size` rows can be split evenly over the mesh."""
    if size % mesh.size:
        raise UserError(
            f"config key {key}={size} must be divisible by the number of devices, {mesh.size}"
        )
