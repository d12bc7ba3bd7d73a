"""The digest of a state sees every flipped bit and no change of layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hsproto.parallel.mesh import make_mesh
from hsproto.training.inspection import inspect

DTYPES = ("float32", "bfloat16", "int32", "uint8", "bool")


def digest(array):
    (value,) = inspect({"a": array}).digest.values()
    return value


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_flipped_bit_changes_the_digest(dtype):
    array = np.asarray(jax.random.normal(jax.random.key(0), (4, 6)).astype(dtype))
    whole = digest(jnp.asarray(array))
    size = array.dtype.itemsize
    for place in range(array.size):
        for bit in range(1 if dtype == "bool" else 8 * size):
            damaged = bytearray(array.tobytes())
            damaged[place * size + bit // 8] ^= 1 << bit % 8
            other = np.frombuffer(bytes(damaged), array.dtype).reshape(array.shape)
            assert digest(jnp.asarray(other)) != whole


def test_exchanged_rows_change_it_and_another_layout_does_not():
    array = jax.random.normal(jax.random.key(0), (16, 3))
    split = jax.device_put(array, NamedSharding(make_mesh(), PartitionSpec("data")))
    assert digest(split) == digest(array)
    assert digest(array[::-1]) != digest(array)


def test_numbers_that_are_not_finite_are_seen():
    assert inspect((jnp.ones(3), jnp.arange(2))).is_finite
    assert not inspect((jnp.ones(3), jnp.array([1.0, jnp.inf]))).is_finite
