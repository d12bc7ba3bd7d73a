"""Absurd sizes end in one line before anything is allocated, and no value in a traceback."""

import math

import jax
import pytest
from small_runs import tiny_config

from hsproto import config as config_lib
from hsproto import config_checks, train
from hsproto.errors import UserError
from hsproto.models import architecture
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import memory, state

OF_TYPE = {
    bool: ("true", "false"),
    int: ("-1", "0", "1", "3", "1000000000", "2147483648", str(10**20), "9" * 400),
    float: ("-1", "0", "1e-308", "1e-30", "0.5", "1e9", "1e308", "inf", "-inf", "nan"),
    str: ("", "none", "x" * 10_000, "$", "0/1"),
    tuple: ("", "0", "-1", "0/0", "1/1", "1/inf", "nan/nan", "1e308/1e308", "0.5/0.5/0.5/0.5",
            "/".join(["1"] * 1000)),
}  # fmt: skip


def checked(argument, classes=10, images=1437):
    """What `train` does with a config before it allocates anything."""
    config = config_lib.with_argument(config_lib.default(), argument)
    config_checks.validate(config)
    architecture.validate(config)
    config.num_classes, config.num_examples = classes, images
    config_checks.validate(config)
    architecture.validate(config, classes)
    config_lib.total_steps(config)
    mesh = mesh_lib.make_mesh()
    memory.check(config, state.abstract(config, mesh), mesh)


SIZES = ("width", "patch_size", "embedding_dim", "image_size", "load_size", "queue_size")
SIZES += ("batch_size", "eval_batch_size", "projection_dim", "channels", "microbatches")


@pytest.fixture
def shallow(monkeypatch):
    """Networks of few layers: sizes depend on their widths."""
    monkeypatch.setitem(architecture.VITS["vit_s"], "depth", 1)
    monkeypatch.setitem(architecture.RESNETS, "resnet18", ("basic", (1, 1, 0, 0)))


def values(keys):
    defaults = config_lib.default()
    for key in keys or sorted(defaults):
        if key != "variant":
            yield from (f"{key}={value}" for value in OF_TYPE[type(defaults[key])])


@pytest.mark.parametrize(
    ("base", "keys"),
    [
        ("backbone=convnet", ()),
        ("backbone=convnet,loss=scl,projection=mlp", SIZES),
        ("backbone=convnet,embedding=signed,head=etf", SIZES),
        pytest.param("backbone=resnet18,loss=scl", (), marks=pytest.mark.slow),
        pytest.param("backbone=vit_s,embedding=signed", SIZES, marks=pytest.mark.slow),
    ],
)
def test_no_value_of_any_key_ends_in_a_traceback(base, keys, shallow):
    count = refused = 0
    given = {item.partition("=")[0] for item in base.split(",")}
    for argument in values(keys):
        if argument.partition("=")[0] in given:
            continue
        try:
            checked(f"{base},{argument}")
        except UserError as error:
            assert "\n" not in str(error), argument
            refused += 1
        except Exception as error:
            raise AssertionError(f"{base} {argument[:60]}") from error
        count += 1
    assert count > (50 if keys else 350) and refused > count / 3


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("backbone=resnet18,width=1000000", "width"),
        ("embedding=signed,embedding_dim=1000000000", "embedding_dim"),
        ("loss=scl,projection=mlp,projection_dim=1000000000", "projection_dim"),
        ("queue_size=1000000512", "queue_size"),
        ("loss=scl,queue_size=1073741824", "queue_size"),
        ("batch_size=1000000000", "batch_size"),
        ("eval_batch_size=1000000000", "eval_batch_size"),
        ("image_size=1000000", "image_size"),
        ("load_size=1000000", "load_size"),
    ],
)
def test_the_largest_key_of_what_cannot_fit_is_named(argument, key):
    with pytest.raises(UserError, match=f"config key {key}=.* is too large: .* GiB"):
        checked(f"backbone=convnet,{argument}" if "backbone" not in argument else argument)


def test_what_fits_is_not_refused(monkeypatch):
    mesh = mesh_lib.make_mesh()
    config = tiny_config()
    config.num_classes, config.num_examples = 10, 1437
    abstract = state.abstract(config, mesh)
    needed = memory.least(config, abstract, mesh)
    leaves = jax.tree.leaves((abstract.params, abstract.opt_state))
    assert 4 * sum(math.prod(leaf.shape) for leaf in leaves) < needed < memory.per_device(mesh)
    monkeypatch.setattr(memory, "per_device", lambda mesh: needed)
    memory.check(config, abstract, mesh)
    monkeypatch.setattr(memory, "per_device", lambda mesh: needed - 1)
    with pytest.raises(UserError, match="too large"):
        memory.check(config, abstract, mesh)


def test_a_refusal_leaves_no_run_behind(tmp_path):
    for argument in (
        "eval_batch_size=1000000000",
        "width=1000000",
        "epochs=100000000,batch_size=8",
    ):
        with pytest.raises(UserError, match="too large|at most 2"):
            train.train(tiny_config(argument=argument), tmp_path / "run")
        assert list((tmp_path / "run").iterdir()) == []
