"""Nearest neighbors by cosine, in blocks of bounded memory."""

import jax
import numpy as np

from hsproto.core import numerics

# Cosines of a block of images with all training features: 256 MB of float32.
_BLOCK_ELEMENTS = 2**26

cosine_blocks = jax.jit(numerics.cosines)


def kth_cosine(features, others, k, where=None, on_host=np.asarray):
    """Cosine [N] of features [N, D] with the k-th nearest of others [M, D], by cosine.

    where: bool [M], the rows of `others` that count. `features` are on the host; `others` may be
    split over devices, and `on_host` brings what is computed of them back. k is at most the number
    of rows that count.
    """
    where = np.ones(others.shape[0], bool) if where is None else where
    size = max(1, min(1024, _BLOCK_ELEMENTS // others.shape[0], len(features)))
    found = []
    for start in range(0, len(features), size):
        block = features[start : start + size]
        # All blocks of one shape, so that one program serves them.
        padded = np.pad(block, ((0, size - len(block)), (0, 0)))
        cosines = on_host(cosine_blocks(padded, others))[: len(block), where]
        # On the host: lax.top_k takes 15 times as long on CPUs.
        found.append(np.partition(cosines, -k, axis=1)[:, -k])
    return np.concatenate(found)


def nearest(cosines, count):
    """Columns [Q, count] of the largest of cosines float32 [Q, N], from the largest.

    Of equal ones that of the first column comes first, as in a stable sort, which takes five times
    as long on 50,000 columns. No cosine may be NaN.
    """
    bits = (cosines + 0.0).view(np.uint32)  # -0.0 becomes 0.0
    # Non-negative floats are in the order of their bits, negative ones in the reverse.
    rank = np.where(bits >> 31, bits, 0x7FFFFFFF - bits).astype(np.uint64)
    keys = rank << 32 | np.arange(cosines.shape[1], dtype=np.uint64)
    kept = np.partition(keys, max(count - 1, 0), axis=1)[:, :count]
    return (np.sort(kept, axis=1) & 0xFFFFFFFF).astype(np.int64)
