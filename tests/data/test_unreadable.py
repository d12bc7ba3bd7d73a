"""Images that cannot be used are all named before training, or left out and counted."""

import numpy as np
import pytest
from PIL import Image
from small_runs import tiny

from hsproto import config as config_lib
from hsproto import config_checks, train
from hsproto.cli import load_config
from hsproto.data import load as load_lib
from hsproto.data import loader
from hsproto.data.decode import UnreadableImage
from hsproto.errors import UserError
from hsproto.parallel import mesh

BAD = ("train/ant/1.png", "train/bee/0.png", "train/bee/3.jpg")


@pytest.fixture
def root(tmp_path):
    """Two classes of five images, of which three cannot be used for three reasons."""
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    (tmp_path / BAD[0]).write_text("no image")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / BAD[1], "TIFF")
    # Only the body is damaged.
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / BAD[2])
    content = (tmp_path / BAD[2]).read_bytes()
    (tmp_path / BAD[2]).write_bytes(content[: len(content) // 2])
    return tmp_path


def config_of(root, **changes):
    config = config_lib.default()
    config.update(source="folder", data_dir=str(root), image_size=8, batch_size=8, **changes)
    return config


def opened(config):
    return loader.open_loader(load_lib.load_splits(config).train, config, mesh.make_mesh())


@pytest.mark.parametrize(("placement", "count"), [("auto", 3), ("resident", 3), ("stream", 2)])
def test_all_are_named_before_training(root, placement, count):
    with pytest.raises(UserError) as caught:
        opened(config_of(root, placement=placement))
    message = str(caught.value)
    assert message.startswith(f"{count} unreadable images: ") and "\n" not in message
    assert all(name in message for name in BAD[:count]) and "skip_unreadable" in message


def test_of_many_twenty_are_named():
    error = UnreadableImage(*((f"{i}.png", "why") for i in range(23)))
    assert "19.png (why) and 3 more: repair" in str(error) and "20.png" not in str(error)


def test_all_of_a_streamed_batch_are_named(root):
    (root / BAD[0]).unlink()
    (root / BAD[1]).unlink()
    streamed = opened(config_of(root, placement="stream", crop_on="device"))
    (root / "train" / "bee" / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"^2 unreadable images: .*1\.png.*3\.jpg"):
        list(streamed.batches(0, 1))


@pytest.mark.parametrize("placement", ["resident", "stream"])
def test_they_can_be_left_out(root, placement, capsys):
    config = config_of(root, placement=placement, skip_unreadable=True)
    loaded = opened(config)
    assert len(loaded) == 6 and len(list(loaded.batches(0, 2))) == 2
    assert "3 of 9 train images are unreadable and left out" in capsys.readouterr().out
    for path in (root / "train" / "ant").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no training image of class 'ant' is readable"):
        load_lib.load_splits(config)


def test_a_subset_is_checked_for_its_own_images_alone(root):
    for name in BAD[1:]:
        (root / name).unlink()
    with pytest.raises(UserError, match="1.png"):
        opened(config_of(root, placement="stream"))
    (root / "train" / "cat").mkdir()
    (root / "test" / "cat").mkdir()
    for split in ("train", "test"):
        Image.new("RGB", (8, 8)).save(root / split / "cat" / "0.png")
    config = config_of(root, placement="stream", class_list="bee/cat")
    config.batch_size = 2
    opened(config)


def test_check_lists_them_and_trains_nothing(root, capsys):
    config = tiny(argument=f"source=folder,data_dir={root},channels=3,batch_size=8")
    arguments = [f"--config={config}", f"--workdir={root / 'run'}", "--check"]
    assert train.main(arguments) == 2
    *bad, last = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in bad] == [str(root / name) for name in BAD]
    assert last == "17 images of 2 classes, 3 unreadable"
    for name in BAD:
        (root / name).unlink()
    assert train.main(arguments) == 0
    assert capsys.readouterr().out == "14 images of 2 classes, 0 unreadable\n"
    assert not (root / "run").exists()


def test_the_key_goes_with_image_files_only():
    config = load_config(tiny())
    config.skip_unreadable = True
    with pytest.raises(UserError, match="skip_unreadable"):
        config_checks.validate(config)
