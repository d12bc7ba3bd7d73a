"""Several processes are one run: what is lost when one of them is killed or told to stop."""

import json
import os
import re
import signal
import socket
import time

import forks
import numpy as np
import pytest
from small_runs import outcome, tiny

from hsproto.runs import owner

# Nearly all the time here goes into compiling. At a high rate other topologies' rounding grows
# beyond 1e-5 within twenty steps.
CONFIG = tiny(argument="crop_scale=1/1,base_lr=0.005,epochs=1.5,warmup_epochs=0")


def start(workdir, environment, processes=1, devices=1, own=None):
    """The processes of a run, each with its output in a file beside the workdir.

    `own` are the flags of each.
    """
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        port = sock.getsockname()[1]
    environment = environment | {"JAX_NUM_CPU_DEVICES": str(devices)}
    arguments = [f"--config={CONFIG}", f"--workdir={workdir}"]
    joined = [f"--coordinator=localhost:{port}", f"--num_processes={processes}"]
    run = []
    for i in range(processes):
        mine = [*joined, f"--process_id={i}"] if processes > 1 else []
        mine += own[i] if own else []
        log = f"{workdir}.{i}.log"
        open(log, "w").close()
        run.append(forks.start(arguments + mine, environment, log))
    return run


def end(workdir, run, seconds=300):
    """Their statuses and what they printed."""
    until = time.monotonic() + seconds
    for process in run:
        process.join(max(0, until - time.monotonic()))
    return [p.exitcode for p in run], [open(f"{workdir}.{i}.log").read() for i in range(len(run))]


def finish(workdir, environment, **topology):
    statuses, told = end(workdir, start(workdir, environment, **topology))
    assert statuses == [0] * len(statuses), told
    return told


def lines_of(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def assert_close(found, expected):
    for one, other in zip(found[0], expected[0], strict=True):
        assert set(one) == set(other)
        for key, value in one.items():
            assert value == pytest.approx(other[key], rel=1e-5, abs=1e-5), (one["step"], key)
    assert found[1]["test"]["accuracy"] == expected[1]["test"]["accuracy"]


@pytest.fixture(scope="module")
def on_one(tmp_path_factory, child_environment):
    workdir = tmp_path_factory.mktemp("on_one")
    finish(workdir, child_environment)
    return outcome(workdir)


@pytest.fixture(scope="module")
def on_four(tmp_path_factory, child_environment):
    workdir = tmp_path_factory.mktemp("on_four")
    finish(workdir, child_environment, processes=4)
    return outcome(workdir)


@pytest.mark.slow
def test_four_processes_are_one(on_four, on_one):
    assert_close(on_four, on_one)


@pytest.mark.slow
def test_when_one_of_four_dies_the_others_say_so_and_nothing_is_lost(
    tmp_path, on_four, child_environment
):
    workdir = tmp_path / "run"
    run = start(workdir, child_environment, processes=4)
    forks.wait_for(run[0], lambda: lines_of(workdir) > 10)
    run[2].kill()
    killed = time.monotonic()
    statuses, told = end(workdir, run, seconds=60)
    assert statuses[2] == -signal.SIGKILL and statuses.count(1) == 3, told
    assert time.monotonic() - killed < 60
    assert "process 2 of 4 is lost (" in told[0] and "; the same command resumes" in told[0], told
    told = finish(workdir, child_environment, processes=4)
    assert "resuming at step" in told[0]
    assert outcome(workdir) == on_four


@pytest.mark.slow
def test_sigterm_to_one_of_four_saves_all_and_two_can_go_on_with_split_classes(
    tmp_path, on_one, child_environment
):
    workdir = tmp_path / "run"
    run = start(workdir, child_environment, processes=4)
    forks.wait_for(run[0], lambda: lines_of(workdir) > 10)
    run[1].terminate()
    statuses, told = end(workdir, run, seconds=60)
    assert statuses == [0] * 4 and "saved; the same command resumes" in told[0], told
    stopped = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert max(map(int, os.listdir(workdir / "checkpoints"))) == stopped
    split = [["--config.model_axis=2"]] * 2
    told = finish(workdir, child_environment, processes=2, own=split)
    assert f"resuming at step {stopped}" in told[0]
    assert_close(outcome(workdir), on_one)


def told_once(workdir, environment, own):
    """The line that both of two processes end with, status 2, within a minute."""
    statuses, told = end(workdir, start(workdir, environment, processes=2, own=own), seconds=60)
    assert statuses == [2, 2], told
    said = [re.findall("^hsproto: (?:process . of 2: )?(.*)$", text, re.M) for text in told]
    assert said[0] == said[1] and len(said[0]) == 1 and "Traceback" not in "".join(told), told
    return said[0][0]


@pytest.mark.slow
def test_what_one_of_two_processes_lacks_or_has_otherwise_ends_both(tmp_path, child_environment):
    workdir = tmp_path / "run"
    line = told_once(workdir, child_environment, [["--config.width=12"], ["--config.width=16"]])
    assert "config.width is 12 in process 0, 16 in process 1" in line
    line = told_once(workdir, child_environment, [[], ["--config.seed=1"]])
    assert "config.seed is 42 in process 0, 1 in process 1" in line
    assert not workdir.exists()
    arrays = {"images": np.zeros((320, 8, 8), np.uint8), "labels": np.arange(320) % 10}
    splits = {f"{split}_{k}": v for split in ("train", "test") for k, v in arrays.items()}
    np.savez(tmp_path / "mine.npz", **splits, class_names=[str(i) for i in range(10)])
    flags = ["--config.source=arrays", "--config.dataset=mine"]
    here, gone = ([*flags, f"--config.data_dir={tmp_path / name}"] for name in ("mine.npz", "gone"))
    line = told_once(workdir, child_environment, [here, gone])
    assert f"data_dir={tmp_path / 'gone'}" in line
    with owner.owned(str(workdir)):
        line = told_once(workdir, child_environment, [[], []])
        assert f"is in use by process {os.getpid()} on" in line
    assert os.listdir(workdir) == []


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_devices(tmp_path, on_one, child_environment):
    workdir = tmp_path / "run"
    run = start(workdir, child_environment, devices=8)
    forks.wait_for(run[0], lambda: lines_of(workdir) > 8)
    run[0].terminate()
    statuses, told = end(workdir, run)
    assert statuses == [0] and "saved" in told[0], told
    assert "resuming" in finish(workdir, child_environment)[0]
    assert_close(outcome(workdir), on_one)
