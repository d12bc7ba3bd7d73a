"""Training: the step, what a run leaves behind, and that stopping it loses nothing."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time

import forks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import ROOT, outcome, tiny, tiny_config

from hsproto import config as config_lib
from hsproto import train
from hsproto.data import load as load_lib
from hsproto.data import loader
from hsproto.errors import UserError
from hsproto.evaluation import evaluator, trained
from hsproto.models import classifier as classifier_lib
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import loop, objective
from hsproto.training import state as state_lib


def resolved(argument="", recipe="digits"):
    config = tiny_config(recipe, argument)
    splits = load_lib.load_splits(config)
    return load_lib.resolve(config, splits), splits


def test_the_loss_of_a_step_is_the_named_loss_of_the_model(monkeypatch):
    config, splits = resolved("loss=ntce,embedding=pooled")
    mesh = mesh_lib.make_mesh(jax.devices()[:1])
    state = state_lib.create(config, mesh)
    prototypes, bias = classifier_lib.classifier(state.variables)
    features = jax.random.normal(jax.random.key(0), (16, prototypes.shape[1]))
    labels = jnp.arange(16) % 10
    found = objective.batch_loss(
        config, model_lib.Outputs(features, features), prototypes, bias, labels
    )
    from hsproto import losses

    expected = losses.ntce(features, prototypes, labels, temperature=config.temperature)
    np.testing.assert_array_equal(found.values, expected.values)


def test_a_run_leaves_what_it_promises(tmp_path, capsys):
    config = tiny_config()
    summary = train.train(config, tmp_path)
    told = capsys.readouterr().out
    assert "images/s" in told and "ETA" in told and "optimum" in told
    assert told.count("compiling the training step ...") == 1
    assert told.count("compiling the evaluation ...") == 1
    assert f"In {tmp_path}:\n  summary.json" in told
    for line in ("report {}", "predict --workdir={} IMAGE...", "evaluate --workdir={}"):
        assert f"\n  hsproto {line.format(tmp_path)}" in told
    assert {p.name for p in tmp_path.iterdir()} == {
        "checkpoints", "config.json", "cosines.png", "data.json", "metrics.jsonl",
        "predictions.npz", "prototypes.npz", "snapshots", "summary.json", "training.png",
    }  # fmt: skip
    records, stored = outcome(tmp_path)
    total = config_lib.total_steps(load_lib.resolve(config, load_lib.load_splits(config)))
    assert summary["step"] == stored["step"] == total
    assert [r["step"] for r in records if "loss" in r] == list(range(1, total + 1))
    assert records[-1]["test/accuracy"] == stored["test"]["accuracy"]
    assert {r["step"] for r in records if "test/accuracy" in r} <= set(range(1, total + 1))
    full = json.loads((tmp_path / "summary.json").read_text())
    assert set(full) >= {"config", "versions", "devices", "images_per_second"}
    assert 0 <= full["test"]["accuracy"] <= 1 and full["images_per_second"] > 0
    with np.load(tmp_path / "prototypes.npz") as arrays:
        assert arrays["prototypes"].shape == (10, 12)
        assert list(arrays["class_names"]) == [str(i) for i in range(10)]

    # The same command again draws the pictures that are missing, if any, and has nothing else to
    # do; a changed config is another run.
    os.remove(tmp_path / "cosines.png")
    again, told = train.train(config, tmp_path), capsys.readouterr().out
    assert again["test"] == summary["test"]
    assert "finished already" in told and "resuming" not in told and "hsproto report" in told
    assert (tmp_path / "cosines.png").exists()
    with pytest.raises(UserError, match="another config.*temperature"):
        train.train(tiny_config(argument="temperature=0.5"), tmp_path)


def test_input_that_is_refused_does_not_claim_the_workdir(tmp_path):
    with pytest.raises(UserError, match="batch_binding"):
        train.train(tiny_config(argument="batch_binding=true,batch_size=8"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_evaluation_counts_every_image_once():
    """Batches that do not divide the set, and other numbers of devices, change nothing."""
    config, splits = resolved()
    found = []
    for devices, size in ((1, 360), (8, 104)):
        config.eval_batch_size = size
        mesh = mesh_lib.make_mesh(jax.devices()[:devices])
        feeds = evaluator.Loaders(*(loader.open_loader(split, config, mesh) for split in splits))
        state = state_lib.create(config, mesh)
        found.append(evaluator.Evaluator(config, feeds, mesh).evaluate(state.variables).metrics)
    for other in found[1:]:
        assert other["test"]["accuracy"] == found[0]["test"]["accuracy"]
        for key, value in found[0]["train"].items():
            assert other["train"][key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    config = tiny_config(argument="base_lr=1e30,warmup_epochs=0,loss=cross_entropy")
    with pytest.raises(loop.NonFiniteLoss, match=r"step \d+ is (nan|inf)"):
        train.train(config, tmp_path)
    mesh = mesh_lib.make_mesh()
    if any((tmp_path / "checkpoints").iterdir()):
        _, state, _ = trained.load_state(tmp_path, mesh)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.params))


def test_an_evaluation_that_fails_costs_no_step(tmp_path, monkeypatch):
    """The state is saved first; the next start makes the evaluation that is missing."""
    config = tiny_config(argument="checkpoint_every_epochs=1")
    train.train(config, tmp_path / "whole")
    evaluate, calls = evaluator.Evaluator.evaluate, []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError("out of memory")
        return evaluate(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(evaluator.Evaluator, "evaluate", failing)
        with pytest.raises(MemoryError):
            train.train(config, tmp_path / "failed")
    steps = [int(p.name) for p in (tmp_path / "failed" / "checkpoints").iterdir()]
    evaluated = [r["step"] for r in outcome(tmp_path / "whole")[0] if "test/accuracy" in r]
    assert max(steps) == evaluated[1]
    train.train(config, tmp_path / "failed")
    assert outcome(tmp_path / "failed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("batch_size=4096", "larger than the training set of 1437 images"),
        ("embedding=signed,embedding_dim=1", "one dimension"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_claims_the_workdir(
    tmp_path, argument, message
):
    with pytest.raises(UserError, match=message):
        train.train(tiny_config(argument=argument), tmp_path)
    assert not list(tmp_path.iterdir())


def test_parameters_that_are_not_finite_are_neither_saved_nor_evaluated(tmp_path, monkeypatch):
    """The last update made them so, with a finite loss before it."""
    make = loop.make_train_step

    def overflowing(config, mesh, log_prior):
        step, total = make(config, mesh, log_prior), config_lib.total_steps(config)

        def wrapped(state, batch):
            state, metrics = step(state, batch)
            if int(state.step) == total:
                state = state._replace(params=jax.tree.map(lambda x: x * jnp.inf, state.params))
            return state, metrics

        return wrapped

    monkeypatch.setattr(loop, "make_train_step", overflowing)
    with pytest.raises(loop.NonFiniteLoss, match="parameters that are not finite"):
        train.train(tiny_config(argument="checkpoint_every_epochs=1"), tmp_path)
    assert not (tmp_path / "summary.json").exists()
    _, state, _ = trained.load_state(tmp_path, mesh_lib.make_mesh())
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.params))


def start(arguments, environment):
    return subprocess.Popen(
        [sys.executable, "-m", "hsproto.train", *arguments],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for(process, condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened in time"
        if process.poll() is not None:
            return
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, child_environment):
    workdir = tmp_path_factory.mktemp("undisturbed")
    process = start([f"--config={tiny()}", f"--workdir={workdir}"], child_environment)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return outcome(workdir)


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_ends_as_if_undisturbed(tmp_path, undisturbed, child_environment):
    arguments = [f"--config={tiny()}", f"--workdir={tmp_path}"]
    metrics = tmp_path / "metrics.jsonl"
    process = start(arguments, child_environment)
    wait_for(process, lambda: metrics.exists() and metrics.read_text().count("\n") > 10)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "saved" in told, told
    assert not (tmp_path / "summary.json").exists()
    told, _ = (resumed := start(arguments, child_environment)).communicate(timeout=300)
    assert resumed.returncode == 0 and "resuming at step" in told, told
    assert outcome(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_if_undisturbed(
    tmp_path, undisturbed, child_environment
):
    """Twice between saves, and twenty times inside one."""
    arguments = [f"--config={tiny()}", "--config.checkpoint_every_epochs=0.1"]
    arguments.append(f"--workdir={tmp_path}")
    chance, checkpoints = random.Random(0), tmp_path / "checkpoints"
    metrics = tmp_path / "metrics.jsonl"
    inside = 0
    for attempt in range(22):
        lines = _lines(metrics) if metrics.exists() else 0
        run = forks.start(arguments, child_environment, tmp_path.with_suffix(".log"))
        if attempt < 2:
            forks.wait_for(run, lambda n=lines: metrics.exists() and _lines(metrics) > n + 5)
        else:  # Orbax's folder of an uncommitted checkpoint is there
            forks.wait_for(run, lambda: any(checkpoints.glob("*tmp*")))
        time.sleep(chance.random() * 0.05)
        run.kill()
        run.join()
        inside += any(checkpoints.glob("*tmp*"))
        assert not (tmp_path / "summary.json").exists(), "the run is too short for so many kills"
    assert inside > 5, "most kills came too late"
    told, _ = (resumed := start(arguments, child_environment)).communicate(timeout=300)
    assert resumed.returncode == 0, told
    assert outcome(tmp_path) == undisturbed


def _lines(path):
    return path.read_text().count("\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config=configs/digits.py:loss=triplet", "--workdir={}"], "loss='triplet'"),
        (["--config=configs/digits.py:epoch=3", "--workdir={}"], "did you mean 'epochs'"),
        (["--config=configs/digits.py", "--workdir=/dev/null/x"], "not writable"),
        (["--config=configs/cifar.py:source=arrays,data_dir=/none", "--workdir={}"], "/none"),
        (["--config=configs/digits.py:num_classes=7", "--workdir={}"], "num_classes=7"),
        (["--config=configs/digits.py"], "--workdir"),
        (["--config=configs/digits.py", "--config.lsos=1", "--workdir={}"], "unknown config key"),
        (["--config=configs/digits.py:seed=99999999999", "--workdir={}"], "seed=99999999999"),
        (["--config=configs/digits.py:mean=nan,std=1", "--workdir={}"], "mean=(nan,)"),
        (["--config=README.md", "--workdir={}"], "--config=README.md"),
        (["--config=configs/digits.py", "--workdir=setup.cfg"], "is a file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, command, arguments, told):
    done = command("train", *(a.format(tmp_path) for a in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("hsproto: ") and done.stderr.count("\n") == 1
    assert told in done.stderr


def test_a_batch_must_divide_by_the_devices(tmp_path):
    with pytest.raises(UserError, match="batch_size=63 must be divisible.*8"):
        train.train(tiny_config(argument="batch_size=63"), tmp_path)


@pytest.mark.slow
def test_an_unreadable_checkpoint_is_passed_over(tmp_path):
    config = tiny_config(argument="keep_checkpoints=3")
    train.train(config, tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda p: int(p.name))
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 100:
            path.write_bytes(os.urandom(64))
    mesh = mesh_lib.make_mesh()
    with pytest.warns(UserWarning, match=f"checkpoint of step {newest.name} is not readable"):
        _, _, step = trained.load_state(tmp_path, mesh)
    assert step < int(newest.name)

    # Training sets it aside, and writes the step anew.
    os.remove(tmp_path / "summary.json")
    with pytest.warns(UserWarning, match="is not readable"):
        train.train(config, tmp_path)
    assert trained.load_state(tmp_path, mesh)[2] == int(newest.name)
    assert len(list((tmp_path / "checkpoints").glob("unreadable_*"))) == 1


@pytest.mark.slow
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(tmp_path, child_environment):
    """For 40 steps no file beyond 40 KB can be written, as on a disk that is full for a while."""
    config = tiny(argument="width=24,epochs=6,keep_checkpoints=99")
    process, told = start([f"--config={config}", f"--workdir={tmp_path}"], child_environment), []
    # Read as it comes: TensorStore prints more than a pipe holds.
    reader = threading.Thread(target=lambda: told.append(process.stdout.read()))
    reader.start()
    metrics, unlimited = tmp_path / "metrics.jsonl", resource.RLIM_INFINITY
    wait_for(process, lambda: metrics.exists() and _lines(metrics) > 10)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (40_000, unlimited))
    wait_for(process, lambda: _lines(metrics) > 50)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    reader.join(timeout=300)
    assert process.wait(timeout=60) == 0, told
    assert "could not be written" in told[0] and "the run goes on" in told[0], told
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert kept[-1] == json.loads((tmp_path / "summary.json").read_text())["step"]
    assert not [step for step in kept if 20 < step < 40], "none was written meanwhile"
