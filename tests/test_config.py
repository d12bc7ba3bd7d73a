"""The configuration: typed arguments, refused mistakes, a round trip through JSON."""

import argparse

import pytest
from small_runs import ROOT

from hsproto import cli, config_checks
from hsproto import config as config_lib
from hsproto.errors import UserError

RECIPES = sorted(p.stem for p in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_valid_and_opens_with_its_command(recipe):
    config = cli.load_config(f"{ROOT}/configs/{recipe}.py")
    config_checks.validate(config)
    text = (ROOT / f"configs/{recipe}.py").read_text()
    assert f"configs/{recipe}.py" in text.split('"""')[1]
    assert "hsproto train" in text.split('"""')[1]


def test_arguments_take_the_type_of_the_default():
    config = config_lib.with_argument(
        config_lib.default(),
        "loss=ntce,batch_size=64,epochs=2,decay_epochs=60/75/90,flip=false,base_lr=1e-2",
    )
    assert config.loss == "ntce" and config.batch_size == 64 and config.flip is False
    assert config.epochs == 2.0 and isinstance(config.epochs, float)
    assert config.decay_epochs == (60.0, 75.0, 90.0) and config.base_lr == 0.01


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("temprature=0.1", "did you mean 'temperature'"),
        ("batch_size=many", "must be int"),
        ("batch_size=1.5", "must be int"),
        ("flip=maybe", "true or false"),
        ("crop_scale=a/b", "numbers joined by /"),
        ("loss", "key=value"),
    ],
)
def test_mistaken_arguments_are_refused_with_the_way_out(argument, told):
    with pytest.raises(UserError, match=told) as caught:
        config_lib.with_argument(config_lib.default(), argument)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "argument",
    [
        "loss=triplet",
        "temperature=0",
        "temperature=-1",
        "temperature=nan",
        "epochs=0",
        "epochs=inf",
        "batch_size=-1",
        "momentum=1",
        "crop_scale=0.5",
        "crop_scale=0.5/2",
        "jitter=0.4/0.4/0.4/0.9",
        "flip=true,jitter_probability=2",
        "mean=0.5/0.5",
        "mean=0.5/0.5/0.5,std=0.1/0.1/0",
        "schedule=step",
        "schedule=step,decay_epochs=90/60",
        "warmup_epochs=10,epochs=10",
        "channels=4",
        "crop_on=gpu",
        "crop_on=host",
        "source=folder,crop_scale=1/1,crop_on=host",
        "seed=-1",
        "image_size=8,load_size=4",
        "snapshot_points=-1",
        "class_list=imagenet",
        "class_list=0/1/0",
        "class_list=0//1",
    ],
)
def test_values_that_cannot_run_are_refused(argument):
    key = argument.split(",")[-1].partition("=")[0]
    config = config_lib.with_argument(config_lib.default(), argument)
    with pytest.raises(UserError, match=f"{key}|decay_epochs|warmup_epochs"):
        config_checks.validate(config)


def test_json_keeps_every_value_and_type():
    config = config_lib.with_argument(config_lib.default(), "decay_epochs=60/75,seed=7")
    again = config_lib.from_json(config_lib.to_json(config))
    assert again.to_dict() == config.to_dict()
    assert config_lib.differences(config, again) == []
    assert config_lib.from_json("{}").crop_on == "device", "of runs older than the key"
    again.temperature = 0.3
    again.log_every = 3
    assert config_lib.differences(config, again) == ["temperature"]


def test_command_line_overrides_keys_of_the_file():
    config = cli.load_config(
        f"{ROOT}/configs/cifar.py:loss=ntce",
        ["--config.batch_size=32", "--config.crop_scale=(0.5, 1.0)", "--config.crop_ratio=0.5/2"],
    )
    assert (config.loss, config.batch_size, config.crop_scale) == ("ntce", 32, (0.5, 1.0))
    assert config.crop_ratio == (0.5, 2.0)


@pytest.mark.parametrize(
    ("location", "overrides", "told"),
    [
        ("configs/none.py", [], "no file"),
        ("configs/digits.py:epochs=x", [], "epochs='x'"),
        ("configs/digits.py", ["--config.batch_sise=3"], "batch_sise"),
        ("configs/digits.py", ["--config.batch_size=x"], "batch_size"),
        ("configs/digits.py", ["--config.batch_size"], "form --config.key=value"),
        ("configs/digits.py", ["--config.temperature=-1.0"], "temperature=-1.0"),
    ],
)
def test_a_mistaken_command_line_is_one_line(location, overrides, told):
    with pytest.raises(UserError, match=told) as caught:
        cli.load_config(location.replace("configs", f"{ROOT}/configs"), overrides)
    assert "\n" not in str(caught.value)


def test_unknown_flags_and_missing_ones_are_user_errors():
    for argv in (["--workdir=x"], ["--config=configs/digits.py", "--wrkdir=x"]):
        with pytest.raises(UserError, match="see test --help"):
            cli.Parser("doc", prog="test").parse_with_config(argv)


def test_a_key_twice_is_refused():
    with pytest.raises(UserError, match="gives loss twice"):
        config_lib.with_argument(config_lib.default(), "loss=nonl,epochs=3,loss=ntce")


@pytest.mark.parametrize("text", ["gs://bucket/run", "s3://bucket/run", "~nobody-of-this-name/run"])
def test_a_workdir_that_would_become_a_local_folder_by_mistake_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="remote location|unknown user"):
        cli.local_path(text)


def test_the_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cli.local_path("~/runs/digits") == "/home/somebody/runs/digits"


@pytest.mark.parametrize("loss", ["ntce", "nonl", "scl", "prototype_softmax"])
def test_a_loss_without_any_negative_is_refused(loss):
    for argument in ("batch_size=1", "batch_size=8,loss_groups=8"):
        config = config_lib.with_argument(config_lib.default(), f"loss={loss},{argument}")
        with pytest.raises(UserError, match="leave each image without any"):
            config_checks.validate(config)
    config.loss = "normface"
    config_checks.validate(config)
