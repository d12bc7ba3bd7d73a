"""How the images that `sampler` picks for a step reach the devices.

Small sets reside on the devices as a whole and a batch is a gather; large ones are read and decoded
by grain's threads or by worker processes (`workers`), each process of a run its own rows. Both give
the same batches. Random crops on the host are cut while images are read, so they always take the
second way.
"""

import functools
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding

from hsproto import config as config_lib
from hsproto.data import decode, sampler
from hsproto.data.arrays import ArraySource
from hsproto.data.crops import RandomCrops
from hsproto.data.source import PictureSource, Source
from hsproto.data.workers import WorkerStream
from hsproto.errors import UserError
from hsproto.parallel.mesh import over_batch, replicated

RESIDENT_BYTES = 2**30  # `placement="auto"` keeps sets up to this size on the devices

Batch = dict[str, jax.Array]


def rows_of_process(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Return the rows of a global batch that this process's devices hold under `sharding`, sorted.

    A contiguous slice where the mesh has each process's devices side by side, as `jax.make_mesh`
    arranges them; right for any other arrangement too.
    """
    shards = sharding.addressable_devices_indices_map((batch_size,)).values()
    slices = {index[0].indices(batch_size)[:2] for index in shards}
    return np.concatenate([np.arange(start, stop) for start, stop in sorted(slices)])


def read_all(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return (images uint8 [N, H, W, C], labels int32 [N]) of a whole source, in host memory."""
    if isinstance(source, ArraySource):
        return source.images, source.labels
    rows = np.arange(len(source))
    return _load(_Squares(source), rows, rows, step=0, threads=_num_threads())


def crop_place(source: Source, config: Any) -> str:
    """Return where random crops of a training set are cut: "host" or "device"."""
    if config.crop_on != "auto":
        return config.crop_on
    on_host = isinstance(source, PictureSource) and config_lib.has_random_crop(config)
    return "host" if on_host and not _is_resident(source, config.placement) else "device"


def open_loader(source: Source, config: Any, mesh: Mesh) -> "Loader":
    """Return a `Loader` of `source` on `mesh`, placed and read as `config` says.

    Uses the keys placement, workers, batch_size, microbatches and seed, and those of the crop where
    crop_on is host.

    Raises:
        UserError: images are unreadable; all of them are named. A set to be streamed is checked,
            one to be resident is read as a whole.
    """
    return Loader(source, config, mesh)


class Loader:
    """Batches of one source, as global arrays sharded over the mesh axis "data".

    Training and evaluation share one loader, so a resident set is on the devices once.
    """

    def __init__(self, source: Source, config: Any, mesh: Mesh):
        self.source = source
        self._config, self._mesh = config, mesh
        self.is_resident = _is_resident(source, config.placement)
        if self.is_resident:
            images, labels = read_all(source)
            self._images = _put(replicated(mesh), images, images.shape)
            self._labels = _put(replicated(mesh), labels, labels.shape)
            self._take = jax.jit(_take, static_argnums=3)
        source.check()

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, start_step: int, num_steps: int) -> Iterator[Batch]:
        """Yield the training batches of steps start_step..start_step+num_steps-1.

        Each is {"image": uint8 [B, H, W, C], "label": int32 [B]} with B = config.batch_size, which
        must be divisible by the number of devices. With n = config.microbatches > 1 the rows have
        two axes, [n, B/n], of which the second is split over the devices. Where config.crop_on is
        "host", each image has a leading axis of views, which are random crops.
        """
        steps = range(start_step, start_step + num_steps)
        indices = sampler.make(self.source, self._config).indices
        on_host = self._config.crop_on == "host"
        crops = RandomCrops(self.source, self._config) if on_host else None
        for _, batch in self._fetch(indices, steps, self._config.microbatches, crops):
            yield batch

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yield every image of the source once, in order, in batches of one shape.

        {"image", "label", "where": bool [batch_size]}. The last batch is filled up with black
        images of label -1 for which `where` is False. `batch_size` must be a multiple of the number
        of devices.
        """
        indices = functools.partial(_rows_in_order, len(self.source), batch_size)
        split = over_batch(self._mesh)
        for local_rows, batch in self._fetch(indices, range(-(-len(self.source) // batch_size))):
            yield batch | {"where": _put(split, local_rows >= 0, (batch_size,))}

    def _fetch(self, indices, steps, microbatches=1, crops=None):
        """Yield (this process's rows of the batch, batch) of each step; row -1 is padding.

        Images are the squares of the source or, if given, its `crops`.
        """
        if not steps:
            return
        size = len(indices(steps[0]))
        several = microbatches > 1
        rows_shape = (microbatches, size // microbatches) if several else (size,)
        columns = rows_of_process(over_batch(self._mesh), rows_shape[-1])
        split = over_batch(self._mesh, axis=int(several))
        local_rows = functools.partial(_local_rows, indices, rows_shape, columns)
        if self.is_resident and not crops:
            for step in steps:
                rows = _put(split, local_rows(step).astype(np.int32), rows_shape)
                yield local_rows(step), self._take(self._images, self._labels, rows, split)
            return
        places = np.arange(size).reshape(rows_shape)[..., columns]
        reader = crops or _Squares(self.source)
        stream = _stream(reader, local_rows, places, steps, self._config.workers)
        try:
            for step, (images, labels) in zip(steps, stream, strict=True):
                batch = {
                    "image": _put(split, images, (*rows_shape, *images.shape[len(rows_shape) :])),
                    "label": _put(split, labels, rows_shape),
                }
                yield local_rows(step), batch
        finally:
            stream.close()


def _is_resident(source, placement):
    if placement not in ("auto", "resident", "stream"):
        raise UserError(f"placement={placement!r} is unknown: use auto, resident or stream")
    if isinstance(source, ArraySource) and source.images.dtype != np.uint8:
        return True  # features, which are in memory as they are
    if placement == "auto":
        return len(source) * math.prod(source.image_shape) <= RESIDENT_BYTES
    return placement == "resident"


_put = jax.make_array_from_process_local_data


def _take(images, labels, rows, sharding):
    where = rows >= 0
    rows = jnp.where(where, rows, 0)
    batch = {
        "image": jnp.where(where[..., None, None, None], images[rows], 0),
        "label": jnp.where(where, labels[rows], -1),
    }
    return lax.with_sharding_constraint(batch, sharding)


def _rows_in_order(num_examples, batch_size, step):
    rows = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.where(rows < num_examples, rows, -1)


def _local_rows(indices, shape, columns, step):
    """This process's part of the rows of a step, which have one axis or, with microbatches, two."""
    return indices(step).reshape(shape)[..., columns]


class _Squares:
    """A reader of the squares of a source, the same at every step."""

    def __init__(self, source):
        self._source, self.shape = source, source.image_shape

    def read(self, row, step, place):
        return self._source[row]


def _stream(reader, local_rows, places, steps, workers):
    """Return an iterator over this process's (images, labels) of each step.

    One element is one batch, loaded by a pool of threads.
    """
    # Several worker processes share the cores; a single one has them for its threads.
    threads = max(1, _num_threads() // max(workers, 1))
    load_step = functools.partial(_load_step, reader, local_rows, places, threads)
    if workers:
        return WorkerStream(load_step, steps, workers, (*places.shape, *reader.shape))
    dataset = grain.MapDataset.range(steps.start, steps.stop).map(load_step)
    # Batches are large: loading two at a time hides the latency and bounds the memory.
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)))


def _load_step(reader, local_rows, places, threads, step):
    return _load(reader, local_rows(step), places, step, threads)


def _load(reader, rows, places, step, threads):
    """Return (images, labels) of the rows of a set at `places` in the batch of a step."""
    images = np.zeros((*rows.shape, *reader.shape), np.uint8)
    labels = np.full(rows.shape, -1, np.int32)

    def load_row(i):
        try:
            if rows[i] >= 0:
                images[i], labels[i] = reader.read(int(rows[i]), int(step), int(places[i]))
        except decode.UnreadableImage as error:
            return error  # all of them are told at once

    decode.raise_unreadable([e for e in _pool(threads).map(load_row, np.ndindex(rows.shape)) if e])
    return images, labels


def _num_threads():
    # Decoding releases the interpreter lock; more threads than cores hide the disk's latency.
    return min(32, 4 * (os.cpu_count() or 1))


@functools.cache
def _pool(threads):
    return ThreadPoolExecutor(threads, thread_name_prefix="hsproto-load")
