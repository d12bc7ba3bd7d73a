"""Crops on the host are torchvision's, and depend on nothing but the seed and their place."""

import hashlib
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_runs import ROOT, tiny, tiny_config

from hsproto import config as config_lib
from hsproto.data import augment, contact_sheet, crops, decode, loader, sampler
from hsproto.data import load as load_lib
from hsproto.data.folder import FolderSource
from hsproto.errors import UserError
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import state as state_lib
from hsproto.training import step as step_lib
from hsproto.training import workdir as workdir_lib

RNG = np.random.default_rng(0)
SIZE = 8
RED = 9  # of image i: i times this, everywhere


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of many shapes; the red of each tells which it is, the rest is noise."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(24):
        shape = (20 + 2 * i, 60 - i)
        pixels = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
        pixels[..., 0] = RED * i
        for split in ("train", "test"):
            path = root / split / "ab"[i // 12]
            path.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path / f"{i:02d}.png")
    return root


def make_config(folder, argument=""):
    config = tiny_config(
        "digits",
        f"source=folder,data_dir={folder},channels=3,image_size={SIZE},batch_size=16,seed=5,"
        f"crop_scale=0.2/1,placement=stream,eval_batch_size=16,{argument}",
    )
    splits = load_lib.load_splits(config)
    return load_lib.resolve(config, splits), splits


def batches_of(config, source, start=0, num_steps=3, mesh=None):
    opened = loader.open_loader(source, config, mesh or mesh_lib.make_mesh())
    return [jax.device_get(batch) for batch in opened.batches(start, num_steps)]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for key in ("image", "label"):
            np.testing.assert_array_equal(batch[key], other[key])


sides = st.integers(1, 600)


@settings(deadline=None, max_examples=300)
@given(sides, sides, st.integers(0, 2**32 - 1))
def test_a_box_has_an_area_and_a_ratio_in_range_or_is_the_largest_centered_one(height, width, seed):
    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    numbers = crops.uniforms(seed, 0, 0, 0)
    top, left, h, w = crops.crop_box(numbers, (height, width), scale, ratio)
    assert 0 <= top <= height - h and 0 <= left <= width - w and h > 0 and w > 0
    # The sides were rounded to whole pixels.
    in_range = (
        (w - 0.5) * (h - 0.5) <= scale[1] * height * width
        and (w + 0.5) * (h + 0.5) >= scale[0] * height * width
        and (w - 0.5) / (h + 0.5) <= ratio[1]
        and (w + 0.5) / (h - 0.5) >= ratio[0]
    )
    largest = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    centered = ((height - largest[0]) // 2, (width - largest[1]) // 2, *largest)
    assert in_range or (top, left, h, w) == centered


@pytest.mark.parametrize(
    ("shape", "box"),
    [((10, 400), (0, 193, 10, 13)), ((400, 10), (193, 0, 13, 10)), ((1, 1), (0, 0, 1, 1))],
)
def test_pictures_of_extreme_shape_are_cut_in_the_centre(shape, box):
    for place in range(50):
        numbers = crops.uniforms(0, 0, place, 0)
        assert crops.crop_box(numbers, shape, (0.2, 1.0), (3 / 4, 4 / 3)) == box


@pytest.mark.parametrize("shape", [(375, 500), (32, 32), (64, 20)])
def test_equal_numbers_give_the_device_s_boxes(shape):
    numbers = np.array([crops.uniforms(1, 0, place, 0) for place in range(1000)])
    scale, ratio = (0.2, 1.0), (3 / 4, 4 / 3)
    draw = jax.jit(jax.vmap(lambda u: augment.crop_box(u, shape, scale, ratio)))
    device = np.stack(draw(numbers.astype(np.float32)), axis=1)
    host = np.array([crops.crop_box(list(u), shape, scale, ratio) for u in numbers])
    # float32 there and float64 here may round another way.
    assert (device == host).all(axis=1).mean() > 0.99 and np.abs(device - host).max() <= 1


def test_pixels_outside_the_box_do_not_reach_into_a_crop():
    pixels = RNG.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    top, left, height, width = box = (10, 20, 30, 40)
    found = decode.resized_crop(Image.fromarray(pixels), box, 16)
    inside = pixels[top : top + height, left : left + width].copy()
    assert found.shape == (16, 16, 3)
    pixels[:] = 255
    pixels[top : top + height, left : left + width] = inside
    np.testing.assert_array_equal(decode.resized_crop(Image.fromarray(pixels), box, 16), found)
    resized = Image.fromarray(inside).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, resized)


def test_numbers_are_those_of_seed_step_place_and_view():
    where = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 1, 1, 0)]
    found = [crops.uniforms(*place) for place in where]
    assert len({tuple(numbers) for numbers in found}) == len(where)
    assert [crops.uniforms(*place) for place in where] == found
    many = np.array([crops.uniforms(3, s, p, 0) for s in range(50) for p in range(50)])
    assert abs(many.mean() - 0.5) < 0.01 and many.min() >= 0 and many.max() < 1


def test_the_crop_is_on_the_host_where_whole_pictures_are_streamed(folder):
    places = {
        "": "host",
        "placement=auto": "device",  # the set is small
        "placement=resident": "device",
        "placement=resident,crop_on=host": "host",
        "crop_on=device": "device",
        "crop_scale=1/1": "device",
        "source=digits,channels=1,data_dir=": "device",
    }
    assert {argument: make_config(folder, argument)[0].crop_on for argument in places} == places


def test_a_run_that_goes_on_keeps_the_place_of_its_crop(folder, tmp_path):
    config, splits = make_config(folder)
    assert workdir_lib.claim(tmp_path, config) is None
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    moved, _ = make_config(folder, "placement=resident,crop_on=auto")
    assert moved.crop_on == "device"
    moved.crop_on = "auto"
    earlier = workdir_lib.claim(tmp_path, moved)
    assert load_lib.resolve(moved, splits, earlier).crop_on == "host"
    other, _ = make_config(folder, "crop_on=device")
    with pytest.raises(UserError, match="another config.*crop_on='host' there, 'device' here"):
        workdir_lib.claim(tmp_path, other)


def test_batches_are_crops_of_the_sampler_s_rows(folder):
    config, splits = make_config(folder)
    for number, batch in enumerate(batches_of(config, splits.train)):
        rows = sampler.Sampler(24, 16, seed=5).indices(number)
        assert batch["image"].shape == (16, 1, SIZE, SIZE, 3) and batch["image"].dtype == np.uint8
        np.testing.assert_array_equal(batch["label"], rows // 12)
        assert (batch["image"][..., 0] == RED * rows[:, None, None, None]).all()
        for place, row in enumerate(rows):
            picture, _ = splits.train.picture(int(row))
            numbers = crops.uniforms(5, number, place, 0)
            box = crops.crop_box(numbers, picture.size[::-1], (0.2, 1.0), (3 / 4, 4 / 3))
            expected = decode.resized_crop(picture, box, SIZE)
            np.testing.assert_array_equal(batch["image"][place, 0], expected)


@pytest.mark.parametrize("argument", ["workers=2", "placement=resident,crop_on=host"])
def test_how_crops_are_read_does_not_change_them(folder, argument, monkeypatch):
    config, splits = make_config(folder)
    expected = batches_of(config, splits.train)
    other, _ = make_config(folder, argument)
    assert_same(batches_of(other, splits.train, 1, 2), expected[1:])
    monkeypatch.setattr(loader, "_num_threads", lambda: 1)
    one = mesh_lib.make_mesh(jax.devices()[:1])
    assert_same(batches_of(config, splits.train, mesh=one), expected)


def test_microbatches_hold_the_crops_of_the_batch(folder):
    config, splits = make_config(folder)
    expected = batches_of(config, splits.train)
    several, _ = make_config(folder, "microbatches=2")
    found = batches_of(several, splits.train)
    assert found[0]["image"].shape == (2, 8, 1, SIZE, SIZE, 3)
    flat = [{k: v.reshape(16, *v.shape[2:]) for k, v in batch.items()} for batch in found]
    assert_same(flat, expected)


def test_two_views_are_two_crops_of_one_decoded_picture(folder, monkeypatch):
    config, splits = make_config(folder, "loss=scl")
    read, picture = [], FolderSource.picture
    monkeypatch.setattr(FolderSource, "picture", lambda self, i: read.append(i) or picture(self, i))
    (batch,) = batches_of(config, splits.train, num_steps=1)
    image, rows = batch["image"], sampler.Sampler(24, 16, seed=5).indices(0)
    assert image.shape == (16, 2, SIZE, SIZE, 3)
    assert (image[..., 0] == RED * rows[:, None, None, None]).all()
    assert (image[:, 0] != image[:, 1]).any(axis=(1, 2, 3)).all()
    assert sorted(read) == sorted(rows)


def test_evaluation_sees_centre_squares(folder):
    config, splits = make_config(folder)
    opened = loader.open_loader(splits.train, config, mesh_lib.make_mesh())
    images = np.concatenate([np.asarray(b["image"]) for b in opened.in_order(16)])
    for i in range(24):
        np.testing.assert_array_equal(images[i], splits.train[i][0])


PROCESS = """
import argparse, hashlib, json, sys
import jax
from hsproto import cli
from hsproto.data import load, loader
from hsproto.parallel import mesh, processes

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    processes.add_flags(parser)
    args = parser.parse_args()
    processes.join(args)
    config = cli.load_config(args.config)
    splits = load.load_splits(config)
    config = load.resolve(config, splits)
    read, picture = [], splits.train.picture
    splits.train.picture = lambda i: read.append(i) or picture(i)
    found = []
    for batch in loader.open_loader(splits.train, config, mesh.make_mesh()).batches(0, 2):
        shards = sorted(batch["image"].addressable_shards, key=lambda s: s.index[0].start or 0)
        found.append([hashlib.sha256(bytes(s.data)).hexdigest() for s in shards])
    print(json.dumps({"shards": found, "read": read}), flush=True)
"""


def test_each_process_reads_its_own_rows_and_all_together_the_same_batch(folder, tmp_path):
    (tmp_path / "process.py").write_text(PROCESS)
    argument = f"source=folder,data_dir={folder},channels=3,batch_size=16,seed=5,placement=stream"
    done = subprocess.run(
        [sys.executable, ROOT / "launch/simulate_pod.py", "--processes=2", "--devices=2"]
        + ["--module=process", f"--config={tiny('digits', f'{argument},crop_scale=0.2/1')}"],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = sorted(line for line in done.stdout.splitlines() if line[:5] in ("[0] {", "[1] {"))
    processes = [json.loads(line[4:]) for line in lines]
    config, splits = make_config(folder)
    for number, batch in enumerate(batches_of(config, splits.train, num_steps=2)):
        quarters = [hashlib.sha256(bytes(q)).hexdigest() for q in np.split(batch["image"], 4)]
        assert processes[0]["shards"][number] + processes[1]["shards"][number] == quarters
    rows = np.concatenate([sampler.Sampler(24, 16, seed=5).indices(s) for s in range(2)])
    for process, mine in zip(processes, rows.reshape(2, 2, 8).swapaxes(0, 1), strict=True):
        assert sorted(process["read"]) == sorted(mine.ravel())


@pytest.mark.parametrize("views", [1, 2])
def test_the_device_does_not_crop_again(folder, views):
    off = "flip=false,jitter=0/0/0/0,mean=0.4/0.5/0.6,std=0.2/0.3/0.1"
    config, splits = make_config(folder, f"{off},loss={('nonl', 'scl')[views - 1]}")
    (batch,) = batches_of(config, splits.train, num_steps=1)
    augmented = jax.jit(augment.make_augment(config), static_argnums=2)
    for view in range(views):
        found = augmented(jax.random.key(0), batch["image"], view)
        expected = (batch["image"][:, view] / 255 - np.array(config.mean)) / np.array(config.std)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "microbatches"), [("nonl", 1), ("scl", 2)])
def test_a_step_on_host_crops_is_one_without_a_crop_on_the_same_images(folder, loss, microbatches):
    argument = f"loss={loss},microbatches={microbatches},flip=true"
    argument += ",projection=linear" if loss == "scl" else ""
    config, splits = make_config(folder, argument)
    (batch,) = batches_of(config, splits.train, num_steps=1)
    without, _ = make_config(folder, f"{argument},crop_scale=1/1")
    first = batch["image"][..., :1, :, :, :]
    pairs = {
        "host": (config, np.broadcast_to(first, batch["image"].shape)),
        "device": (without, np.squeeze(first, axis=-4)),
    }
    mesh, found = mesh_lib.make_mesh(), {}
    for name, (recipe, images) in pairs.items():
        state = state_lib.create(recipe, mesh)
        state, metrics = step_lib.make_train_step(recipe, mesh)(state, batch | {"image": images})
        found[name] = jax.device_get((state.params, metrics))
    jax.tree.map(np.testing.assert_array_equal, found["host"], found["device"])


def test_the_contact_sheet_shows_host_crops(folder, tmp_path, monkeypatch):
    config, _ = make_config(folder)
    read, boxes = crops.crop_box, []
    monkeypatch.setattr(crops, "crop_box", lambda *a: boxes.append(read(*a)) or boxes[-1])
    config.crop_on = "auto"
    contact_sheet.contact_sheet(config, tmp_path / "sheet.png", rows=2, columns=3)
    assert len(set(boxes)) == 4 and config.crop_on == "auto"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > sheet.height > 100
