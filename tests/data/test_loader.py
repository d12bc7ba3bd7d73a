"""Which images are in step t is a function of (seed, t), however they reach the devices."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from PIL import Image

from hsproto import config as config_lib
from hsproto.data import arrays, loader, sampler
from hsproto.data import load as load_lib
from hsproto.data.source import Source
from hsproto.errors import UserError


def make_config(**changes):
    config = config_lib.default()
    config.update({"batch_size": 16, "seed": 5, "image_size": 4, **changes})
    return config


def make_mesh(devices=None):
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def make_source(num_examples, channels=1):
    """Images that tell their row, the label too."""
    rows = np.arange(num_examples)
    pixels = (rows[:, None] * 31 + 7 * np.arange(16 * channels)) % 251
    images = pixels.reshape(num_examples, 4, 4, channels).astype(np.uint8)
    return arrays.ArraySource(images, rows, [str(row) for row in rows])


class Streamed(Source):
    """The same images, one at a time, as a source that does not lie in memory."""

    def __init__(self, source):
        self._source, self.class_names = source, source.class_names

    def __len__(self):
        return len(self._source)

    def __getitem__(self, i):
        return self._source[i]


def to_numpy(batches):
    return [{key: np.asarray(value) for key, value in batch.items()} for batch in batches]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


@pytest.mark.parametrize("placement", ["resident", "stream"])
def test_batches_are_the_sampler_s_rows_split_over_the_devices(placement):
    source, config, mesh = make_source(37), make_config(placement=placement), make_mesh()
    opened = loader.open_loader(source, config, mesh)
    assert opened.is_resident == (placement == "resident") and len(opened) == 37
    for step, batch in enumerate(opened.batches(0, 5)):
        rows = sampler.Sampler(37, 16, seed=5).indices(step)
        np.testing.assert_array_equal(batch["label"], rows)
        np.testing.assert_array_equal(batch["image"], source.images[rows])
        assert batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32
        for value in batch.values():
            assert value.sharding == NamedSharding(mesh, PartitionSpec("data"))
    assert step == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_and_resident_batches_are_equal(workers):
    source = make_source(37, channels=3)
    resident = loader.open_loader(source, make_config(placement="resident"), make_mesh())
    config = make_config(placement="stream", workers=workers)
    streamed = loader.open_loader(Streamed(source), config, make_mesh())
    assert_same(to_numpy(streamed.batches(3, 6)), to_numpy(resident.batches(3, 6)))
    if not workers:
        assert_same(to_numpy(streamed.in_order(16)), to_numpy(resident.in_order(16)))


@pytest.mark.parametrize("placement", ["resident", "stream"])
def test_a_run_resumed_at_a_step_sees_the_batches_it_would_have_seen(placement):
    opened = loader.open_loader(make_source(37), make_config(placement=placement), make_mesh())
    whole = to_numpy(opened.batches(0, 7))
    assert_same(whole[4:], to_numpy(opened.batches(4, 3)))
    iterator = opened.batches(0, 7)
    assert_same(whole[:1], to_numpy([next(iterator)]))
    iterator.close()
    assert list(opened.batches(7, 0)) == []


def test_a_batch_may_hold_more_images_than_the_set():
    opened = loader.open_loader(make_source(5), make_config(), make_mesh())
    labels = to_numpy(opened.batches(0, 1))[0]["label"]
    assert set(np.bincount(labels)) <= {3, 4}


@pytest.mark.parametrize("placement", ["resident", "stream"])
@pytest.mark.parametrize("num_examples", [32, 37, 3])
def test_in_order_counts_every_image_once_and_no_padding(placement, num_examples):
    source = make_source(num_examples)
    opened = loader.open_loader(source, make_config(placement=placement), make_mesh())
    batches = to_numpy(opened.in_order(16))
    assert [batch["where"].shape for batch in batches] == [(16,)] * -(-num_examples // 16)
    image, label, where = (
        np.concatenate([batch[key] for batch in batches]) for key in ("image", "label", "where")
    )
    np.testing.assert_array_equal(label[where], np.arange(num_examples))
    np.testing.assert_array_equal(image[where], source.images)
    assert not where[num_examples:].any()
    assert (label[~where] == -1).all() and not image[~where].any()


def test_the_order_of_the_devices_does_not_change_the_batch():
    mesh = Mesh(np.array(jax.devices()[::-1]), ("data",), axis_types=(AxisType.Auto,))
    for placement in ("resident", "stream"):
        config = make_config(placement=placement)
        there = loader.open_loader(make_source(37), config, mesh)
        here = loader.open_loader(make_source(37), config, make_mesh(jax.devices()[:1]))
        assert_same(to_numpy(there.batches(0, 3)), to_numpy(here.batches(0, 3)))


def test_a_process_reads_the_rows_of_its_own_devices_only():
    class OfOneProcess:
        def __init__(self, *shards):
            self._shards = shards

        def addressable_devices_indices_map(self, shape):
            return {i: (shard,) for i, shard in enumerate(self._shards)}

    sharding = NamedSharding(make_mesh(), PartitionSpec("data"))
    np.testing.assert_array_equal(loader.rows_of_process(sharding, 16), np.arange(16))
    beside = OfOneProcess(slice(8, 12, None), slice(12, 16, None))
    np.testing.assert_array_equal(loader.rows_of_process(beside, 16), np.arange(8, 16))
    apart = OfOneProcess(slice(12, None, None), slice(None, 4, None), slice(12, 16, None))
    np.testing.assert_array_equal(loader.rows_of_process(apart, 16), [0, 1, 2, 3, 12, 13, 14, 15])


def test_auto_keeps_sets_up_to_a_size_on_the_devices(monkeypatch):
    for limit, resident in ((37 * 16, True), (37 * 16 - 1, False)):
        monkeypatch.setattr(loader, "RESIDENT_BYTES", limit)
        assert (
            loader.open_loader(make_source(37), make_config(), make_mesh()).is_resident == resident
        )


def test_an_unknown_placement_is_refused():
    with pytest.raises(UserError, match="placement='disk'.*stream"):
        loader.open_loader(make_source(8), make_config(placement="disk"), make_mesh())


@pytest.fixture
def pictures(tmp_path):
    """A folder of PNG files, and a function that opens it."""
    images = make_source(24, channels=3).images
    for i, image in enumerate(images):
        for split in ("train", "test"):
            path = tmp_path / split / "ab"[i % 2]
            path.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path / f"{i:02d}.png")

    def load(**changes):
        config = make_config(source="folder", data_dir=str(tmp_path), **changes)
        return load_lib.load_splits(config).train, config

    load.path = tmp_path
    return load


def test_image_files_are_decoded_once_for_a_resident_set_and_each_time_for_a_stream(pictures):
    resident, streamed = (
        loader.open_loader(*pictures(placement=placement), make_mesh())
        for placement in ("resident", "stream")
    )
    assert_same(to_numpy(streamed.batches(0, 3)), to_numpy(resident.batches(0, 3)))
    batches = to_numpy(resident.in_order(8))
    np.testing.assert_array_equal(
        np.concatenate([b["label"] for b in batches]), [0] * 12 + [1] * 12
    )
    images, labels = loader.read_all(pictures()[0])
    np.testing.assert_array_equal(np.concatenate([b["image"] for b in batches]), images)


@pytest.mark.parametrize("placement", ["resident", "stream"])
def test_an_unreadable_image_ends_a_run_before_its_first_step(pictures, placement):
    (pictures.path / "train" / "b" / "03.png").write_text("no image")
    source, config = pictures(placement=placement)
    with pytest.raises(UserError, match=r"unreadable image .*b/03\.png"):
        loader.open_loader(source, config, make_mesh())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_while_it_is_streamed_is_named(pictures, workers):
    opened = loader.open_loader(*pictures(placement="stream", workers=workers), make_mesh())
    (pictures.path / "train" / "b" / "03.png").write_text("no image")
    with pytest.raises(UserError, match=r"unreadable image .*b/03\.png"):
        list(opened.batches(0, 2))


STREAM = """
import multiprocessing
from hsproto import config
from hsproto.data import load, loader
from hsproto.parallel import mesh

if __name__ == "__main__":
    config = config.default()
    config.update(image_size=8, channels=1, batch_size=8, placement="stream", workers=1)
    source = load.load_splits(config).train
    for batch in loader.open_loader(source, config, mesh.make_mesh()).batches(0, 10**6):
        print(multiprocessing.active_children()[0].pid, flush=True)
        input()
"""


def test_worker_processes_outlive_a_signal_to_all_but_not_a_killed_run(tmp_path):
    script = tmp_path / "stream.py"
    script.write_text(STREAM)
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as run:
        worker = int(run.stdout.readline())
        os.kill(worker, signal.SIGTERM)
        os.kill(worker, signal.SIGINT)
        for _ in range(8):  # more than are prefetched
            run.stdin.write("\n")
            run.stdin.flush()
            assert int(run.stdout.readline()) == worker
        run.kill()
        try:
            run.communicate(timeout=20)  # returns when the last process has let go of stdout
        except subprocess.TimeoutExpired:
            os.kill(worker, signal.SIGKILL)
            raise
