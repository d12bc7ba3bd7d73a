"""The training step computes what the config says, whatever the hardware."""

import functools
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from small_runs import ROOT, tiny_config

from hsproto import config as config_lib
from hsproto import config_checks, losses, methods
from hsproto.data import augment, loader
from hsproto.data import load as load_lib
from hsproto.errors import UserError
from hsproto.models import classifier as classifier_lib
from hsproto.models import convnets
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import objective, optimizer
from hsproto.training import state as state_lib
from hsproto.training import step as step_lib

# No augmentation but a flip: nearly all the time here goes into compiling.
PLAIN = "width=12,batch_size=64,crop_scale=1/1,flip=true,jitter=0/0/0/0,base_lr=0.02"


def resolved(argument):
    recipe = "scl_digits" if "loss=scl" in argument else "digits"
    config = tiny_config(recipe, f"{PLAIN},{argument}")
    splits = load_lib.load_splits(config)
    return load_lib.resolve(config, splits), splits


def after_steps(argument, devices=1, steps=3):
    """(losses of the steps, params and batch_stats after the last) on a number of devices."""
    config, splits = resolved(argument)
    mesh = mesh_lib.make_mesh(jax.devices()[:devices])
    one_step, state = step_lib.make_train_step(config, mesh), state_lib.create(config, mesh)
    found = []
    for batch in loader.open_loader(splits.train, config, mesh).batches(0, steps):
        state, metrics = one_step(state, batch)
        found.append(float(metrics["loss"]))
    return np.array(found), jax.device_get((state.params, state.batch_stats))


on_one_device = functools.cache(after_steps)


def assert_same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(found[1], expected[1], rtol=1e-5, atol=1e-5)


MESHES = [(loss, 8) for loss in methods.LOSSES]
MESHES += [(loss, devices) for loss in ("nonl", "scl") for devices in (2, 4)]


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "devices"), MESHES)
def test_ten_steps_on_any_number_of_devices_are_those_of_one(loss, devices):
    argument = f"loss={loss}"
    assert_same(after_steps(argument, devices, 10), on_one_device(argument, steps=10))


@pytest.mark.parametrize("loss", methods.LOSSES)
def test_every_loss_trains(loss):
    losses, _ = on_one_device(f"loss={loss}", steps=10)
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0]


@pytest.mark.slow
def test_ten_steps_in_several_processes_are_those_of_one(tmp_path, child_environment):
    """Two real processes over loopback, each with two devices; `test_processes` has four."""
    command = [sys.executable, ROOT / "launch" / "simulate_pod.py", "--processes=2", "--devices=2"]
    command += ["--module=steps_in_processes", f"--out={tmp_path}/found.npz"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=child_environment
        | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests/helpers:{ROOT}/tests/training"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(tmp_path / "found.npz") as found:
        for loss in methods.LOSSES:
            expected = on_one_device(f"loss={loss}", steps=10)
            leaves, shape = jax.tree.flatten(expected[1])
            leaves = [found[f"{loss}/{i}"] for i in range(len(leaves))]
            assert_same((found[loss], jax.tree.unflatten(shape, leaves)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["nonl", "scl"])
def test_groups_are_devices_that_exchange_nothing_but_gradients(loss):
    """loss_groups=bn_groups=4 on one device is four devices, each with its own rows."""
    # At the rate of a warm-up rounding passes 1e-5 in the third step on some processors.
    argument = f"loss={loss},flip=false,warmup_epochs=0"
    found = after_steps(f"{argument},loss_groups=4,bn_groups=4", devices=1)

    config, splits = resolved(argument)
    mesh = mesh_lib.make_mesh(jax.devices()[:4])
    model = model_lib.build(config, config.num_classes)
    per_epoch = config_lib.steps_per_epoch(config)
    sgd = optimizer.sgd(config, per_epoch)
    state = state_lib.create(config, mesh)
    views = 2 if loss == "scl" else 1
    preprocess = augment.make_augment(config)

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    def gradients(state, batch):
        images = preprocess(jax.random.key(0), batch["image"])
        images, labels = (jnp.repeat(x, views, axis=0) for x in (images, batch["label"]))

        def loss_of(params):
            variables = {**state.variables, "params": params}
            outputs, stats = model_lib.forward(model, variables, images, train=True)
            value = objective.batch_loss(
                config, outputs, *classifier_lib.classifier(variables), labels
            ).mean()
            return value, (value, stats)

        slopes, (value, stats) = jax.grad(loss_of, has_aux=True)(state.params)
        return jax.lax.pmean((slopes, value, stats), "data")

    values = []
    for batch in loader.open_loader(splits.train, config, mesh).batches(0, 3):
        slopes, value, stats = gradients(state, batch)
        updates, opt_state = sgd.update(slopes, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = state._replace(
            step=state.step + 1, params=params, batch_stats=stats, opt_state=opt_state
        )
        values.append(float(value))
    assert_same(found, (np.array(values), jax.device_get((state.params, state.batch_stats))))
    assert not np.allclose(values, on_one_device(argument)[0], atol=1e-3), "groups do matter"


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "nonl", "scl"])
def test_microbatches_give_the_gradient_of_the_whole_batch(loss, monkeypatch):
    def none(train, dtype, name, groups=1):
        return lambda x: x

    with monkeypatch.context() as patch:
        patch.setattr(convnets, "batch_norm", none)
        expected = after_steps(f"loss={loss}")
        assert_same(after_steps(f"loss={loss},microbatches=8"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["nonl", "scl"])
@pytest.mark.parametrize("devices", [1, 8])
def test_batch_norm_of_microbatches_is_that_of_as_many_groups(loss, devices):
    expected = on_one_device(f"loss={loss},bn_groups=8")
    assert_same(after_steps(f"loss={loss},microbatches=8", devices), expected)


def test_loss_groups_keep_their_rows_in_microbatches():
    expected = on_one_device("loss=nonl,bn_groups=8,loss_groups=2")
    assert_same(after_steps("loss=nonl,microbatches=4,bn_groups=8,loss_groups=2"), expected)


def test_microbatches_need_the_backbones_memory_of_one():
    needed = {}
    for microbatches in (1, 8):
        config, _ = resolved(f"loss=nonl,width=32,batch_size=512,microbatches={microbatches}")
        mesh = mesh_lib.make_mesh(jax.devices()[:1])
        rows = (512,) if microbatches == 1 else (microbatches, 512 // microbatches)
        batch = {
            "image": jax.ShapeDtypeStruct((*rows, 8, 8, 1), jnp.uint8),
            "label": jax.ShapeDtypeStruct(rows, jnp.int32),
        }
        compiled = step_lib.make_train_step(config, mesh).lower(
            state_lib.abstract(config, mesh), batch
        )
        needed[microbatches] = compiled.compile().memory_analysis().temp_size_in_bytes
    assert needed[8] <= needed[1] / 5


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("microbatches=7", "microbatches=7 must divide batch_size=64"),
        ("loss_groups=5", "loss_groups=5 must divide batch_size=64"),
        ("queue_size=100", "queue_size=100 must be a multiple of the 64 embeddings"),
        ("queue_size=64,loss=normface", "queue_size=64 goes with ntce, nonl, scl"),
        ("queue_momentum=0.9", "needs a queue_size"),
        ("bn_groups=2,microbatches=4", "bn_groups=2 must be 1 or a multiple of microbatches=4"),
    ],
)
def test_groups_that_do_not_divide_the_batch_are_refused(argument, told):
    with pytest.raises(UserError, match=told):
        config_checks.validate(tiny_config("digits", f"{PLAIN},{argument}"))


def exchanged(compiled):
    """[(operation, dtype, shape, bytes)] of every collective of a compiled program."""
    found = []
    widths = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "u8": 1, "f64": 8, "s64": 8}
    operations = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    for line in compiled.as_text().splitlines():
        if match := re.search(rf"= (.*?) ({operations})(?:-start)?\(", line):
            for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", match[1]):
                shape = tuple(map(int, filter(None, dims.split(","))))
                size = widths[dtype] * int(np.prod(shape))
                found.append((match[2], dtype, shape, size))
    return found


@pytest.mark.parametrize("name", ["ntce", "nonl"])
@pytest.mark.parametrize("by", ["jit", "shard_map"])
def test_global_negatives_cost_sums_a_class_and_never_features(name, by):
    """At B=8192, K=1000, D=2048 500 times fewer bytes than gathering the features."""
    batch, classes, dims = 8192, 1000, 2048
    mesh = mesh_lib.make_mesh()
    rows, whole = PartitionSpec("data"), PartitionSpec()

    def mean(features, prototypes, labels, axis_name=None):
        loss = getattr(losses, name)
        found = loss(features, prototypes, labels, temperature=0.1, axis_name=axis_name)
        return found.mean(axis_name)

    if by == "shard_map":
        mean = jax.shard_map(
            functools.partial(mean, axis_name="data"),
            mesh=mesh,
            in_specs=(rows, whole, rows),
            out_specs=whole,
        )
    inputs = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
        for shape, dtype, spec in (
            ((batch, dims), jnp.float32, rows),
            ((classes, dims), jnp.float32, whole),
            ((batch,), jnp.int32, rows),
        )
    ]
    compiled = jax.jit(jax.value_and_grad(mean, argnums=(0, 1))).lower(*inputs).compile()
    # The gradient of the prototypes is that of a parameter: any loss on any data-parallel mesh
    # sums it up (and XLA may do so transposed).
    collectives = [c for c in exchanged(compiled) if set(c[2]) != {classes, dims}]
    assert collectives, "maxima and sums have to cross"
    assert all(dims not in shape for _, _, shape, _ in collectives)
    assert sum(size for *_, size in collectives) * 500 <= batch * dims * 4


def test_the_step_exchanges_no_features():
    config, _ = resolved("loss=nonl,width=20")
    mesh = mesh_lib.make_mesh()
    rows = mesh_lib.over_batch(mesh)
    batch = {
        "image": jax.ShapeDtypeStruct((64, 8, 8, 1), jnp.uint8, sharding=rows),
        "label": jax.ShapeDtypeStruct((64,), jnp.int32, sharding=rows),
    }
    lowered = step_lib.make_train_step(config, mesh).lower(state_lib.abstract(config, mesh), batch)
    shapes = {shape for _, _, shape, _ in exchanged(lowered.compile())}
    assert {(10, 20), (20, 10)} & shapes, "the gradient of the prototypes has to cross"
    assert not any(shape[0] in (64, 8) for shape in shapes if shape)


@pytest.mark.slow
@pytest.mark.parametrize("loss", methods.QUEUE_LOSSES)
def test_a_queue_is_the_last_batches_as_further_instances_of_the_loss(loss):
    argument = f"loss={loss},flip=false,queue_size={64 * 2 * (2 if loss == 'scl' else 1)}"
    config, splits = resolved(argument)
    mesh = mesh_lib.make_mesh(jax.devices()[:1])
    one_step, state = step_lib.make_train_step(config, mesh), state_lib.create(config, mesh)
    model, past = model_lib.build(config, config.num_classes), []
    views = config_lib.num_views(config)
    preprocess = augment.make_augment(config)
    for batch in loader.open_loader(splits.train, config, mesh).batches(0, 4):
        images = preprocess(jax.random.key(0), batch["image"])
        images, labels = (jnp.repeat(x, views, axis=0) for x in (images, batch["label"]))
        outputs, _ = model_lib.forward(model, state.variables, images, train=True)
        queued = tuple(map(jnp.concatenate, zip(*past[-2:], strict=True))) if past else None
        expected = objective.batch_loss(
            config, outputs, *classifier_lib.classifier(state.variables), labels, queue=queued
        ).mean()
        past.append((outputs.projections, labels))
        state, metrics = one_step(state, batch)
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "devices"),
    [
        ("loss=nonl,queue_size=128", 8),
        ("loss=scl,queue_size=256,queue_momentum=0.9", 8),
        ("loss=ntce,queue_size=128,queue_momentum=0.9", 4),
    ],
)
def test_a_queue_is_the_same_on_any_number_of_devices(argument, devices):
    assert_same(after_steps(argument, devices, 5), on_one_device(argument, steps=5))


def test_a_queue_goes_with_microbatches():
    argument = "loss=nonl,bn_groups=4,queue_size=128,queue_momentum=0.5"
    assert_same(after_steps(f"{argument},microbatches=4"), on_one_device(argument))


def test_the_average_encoder_follows_the_parameters():
    config, splits = resolved("loss=nonl,queue_size=64,queue_momentum=0.75")
    mesh = mesh_lib.make_mesh(jax.devices()[:1])
    state = state_lib.create(config, mesh)
    before = jax.device_get(state.params)
    (batch,) = loader.open_loader(splits.train, config, mesh).batches(0, 1)
    state, _ = step_lib.make_train_step(config, mesh)(state, batch)
    jax.tree.map(
        lambda average, old, new: np.testing.assert_allclose(
            average, 0.75 * old + 0.25 * new, atol=1e-6
        ),
        state.average["params"], before, jax.device_get(state.params),
    )  # fmt: skip
