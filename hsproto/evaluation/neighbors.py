"""Nearest neighbors by cosine, in blocks of bounded memory."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from hsproto.core import numerics
from hsproto.evaluation.row_blocks import row_blocks

# Cosines of a block of images with all training features: 256 MB of float32.
_BLOCK_ELEMENTS = 2**26
_PART_ELEMENTS = 2**18

_cosines = jax.jit(numerics.cosines)


def cosine_blocks(
    queries: np.ndarray,
    others: Any,
    max_elements: int,
    on_host: Callable[[jax.Array], np.ndarray] = np.asarray,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Return (rows, cosines float32 [rows, M]) of blocks of queries [N, D] with others [M, D].

    Args:
        queries: on the host.
        others: on the host, or split over devices.
        max_elements: of a block, which has at least one row.
        on_host: copies what is computed of `others` to the host.
    """
    return row_blocks(
        lambda block: on_host(_cosines(block, others)), queries, max_elements // others.shape[0]
    )


def kth_cosine(
    features: np.ndarray,
    others: Any,
    k: int,
    where: np.ndarray | None = None,
    on_host: Callable[[jax.Array], np.ndarray] = np.asarray,
) -> np.ndarray:
    """Return the cosine of features [N, D] with the k-th nearest of others [M, D], [N].

    Args:
        k: at most the number of rows that count.
        where: bool [M], the rows of `others` that count.
        on_host: as in `cosine_blocks`.
    """
    blocks = cosine_blocks(features, others, _BLOCK_ELEMENTS, on_host)
    # On the host: lax.top_k takes 15 times as long on CPUs.
    return np.concatenate(
        [
            np.partition(rows if where is None else rows[:, where], -k, axis=1)[:, -k]
            for _, cosines in blocks
            for rows in _in_parts(cosines)
        ]
    )


def _in_parts(cosines):
    """Rows few enough for copies to stay in a cache: half the time on 10,000 columns."""
    step = max(1, _PART_ELEMENTS // cosines.shape[1])
    return (cosines[i : i + step] for i in range(0, len(cosines), step))


def nearest(cosines: np.ndarray, count: int) -> np.ndarray:
    """Return the columns [Q, count] of the largest of cosines float32 [Q, N], from the largest.

    Equal ones are in the order of their columns, as in a stable sort, which takes five times as
    long on 50,000 columns. No cosine may be NaN.
    """
    bits = (cosines + 0.0).view(np.uint32)  # -0.0 becomes 0.0
    # Non-negative floats are in the order of their bits, negative ones in the reverse.
    rank = np.where(bits >> 31, bits, 0x7FFFFFFF - bits).astype(np.uint64)
    keys = rank << 32 | np.arange(cosines.shape[1], dtype=np.uint64)
    smallest = np.partition(keys, max(count - 1, 0), axis=1)[:, :count]
    return (np.sort(smallest, axis=1) & 0xFFFFFFFF).astype(np.int64)
