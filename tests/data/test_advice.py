"""Messages advise only what is then accepted."""

import numpy as np
import pytest

from hsproto import cli
from hsproto import config as config_lib
from hsproto.data import load as load_lib
from hsproto.errors import UserError, one_line


def arrays(**changes):
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 0, 1])
    both = {f"{s}_{k}": v for s in ("train", "test") for k, v in
            (("images", images), ("labels", labels))}  # fmt: skip
    return both | {"class_names": np.array(["a", "b"])} | changes


@pytest.mark.parametrize(
    ("shape", "told"),
    [((4, 8, 8, 8), "1 or 3 channels"), ((4, 0, 0, 3), "one pixel"), ((4, 8, 8, 0), "1 or 3")],
)
def test_images_of_impossible_shapes_come_with_no_config_to_set(tmp_path, shape, told):
    np.savez(tmp_path / "x.npz", **arrays(train_images=np.zeros(shape, np.uint8)))
    config = config_lib.default()
    config.update({"source": "arrays", "dataset": "x", "data_dir": str(tmp_path), "image_size": 8})
    with pytest.raises(UserError, match=told) as caught:
        load_lib.load_splits(config)
    assert "set " not in str(caught.value)


def test_no_advice_to_load_python_objects(tmp_path):
    np.savez(tmp_path / "x.npz", **arrays(train_images=np.array([{}] * 4, object)))
    config = config_lib.default()
    config.update({"source": "arrays", "dataset": "x", "data_dir": str(tmp_path)})
    with pytest.raises(UserError, match="holds Python objects"):
        load_lib.load_splits(config)
    np.array([{}]).dump(tmp_path / "x.npy")
    with pytest.raises(ValueError) as caught:
        np.load(tmp_path / "x.npy")
    assert one_line(caught.value) == "it holds Python objects"


@pytest.mark.parametrize(
    ("number", "told"),
    [(13, "cannot read or write x.png: Permission denied"), (28, "cannot write x.png: No space")],
)
def test_what_the_system_refuses_is_named_with_its_path(number, told, capsys):
    def main(argv):
        raise OSError(number, "Permission denied" if number == 13 else "No space", "x.png")

    with pytest.raises(SystemExit) as caught:
        cli.run(main, [])
    assert caught.value.code == 2 and told in capsys.readouterr().err
