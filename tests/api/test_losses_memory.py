"""What SCL in blocks takes of memory, from what the compiler says it allocates."""

import jax
import jax.numpy as jnp
import pytest

from hsproto import losses


def temporaries(rows, block_size, dims=128):
    """Bytes that value and gradient of SCL need beside their arguments and results."""

    def objective(features, labels):
        return losses.scl(features, labels, temperature=0.1, block_size=block_size).mean()

    features = jax.ShapeDtypeStruct((rows, dims), jnp.float32)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32)
    compiled = jax.jit(jax.value_and_grad(objective)).lower(features, labels).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_blocks_of_anchors_take_an_eighth_of_the_memory_of_all_at_once():
    assert temporaries(8192, 128) <= temporaries(8192, None) / 8


@pytest.mark.parametrize("block_size", [128, 1024])
def test_65536_rows_fit_into_two_gigabytes(block_size):
    assert temporaries(65_536, block_size) <= 2 * 2**30
