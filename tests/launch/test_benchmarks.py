"""The benchmarks run, at sizes of seconds."""

import json
import os
import runpy
import subprocess
import sys

import pytest
from small_runs import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs a benchmark as its command does; gives its report and what it printed."""

    def benchmark(name, *flags, out="--out"):
        path = tmp_path / f"{name}.json"
        monkeypatch.syspath_prepend(BENCHMARKS)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags, f"{out}={path}"])
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
        return json.loads(path.read_text()), capsys.readouterr().out

    return benchmark


@pytest.mark.slow
def test_losses(run):
    report, _ = run("losses", "--quick", "--only=ntce", "--rounds=2")
    assert [row["loss"] for row in report["rows"]] == ["normface", "ntce"] * 2
    assert all(row["textbook/ours"]["median"] > 0 for row in report["rows"])


@pytest.mark.slow
def test_augmentation(run):
    report, _ = run("augmentation", "--backbone=convnet", "--width=4", "--batch=8", "--rounds=1")
    assert len(report["rows"]) == 2 and all(row["share"] > 0 for row in report["rows"])


def test_classes(run):
    report, _ = run("classes", "memory", "--shape=32,64,8", "--class_block=16")
    assert report["value"] > 0 and min(report["gradients"]) > 0


def test_geometry(run):
    report, _ = run("geometry", "--rows=300", "--classes=3", "--dim=8", "--sample=3", "--repeat=1")
    assert report["erank_intra"] == pytest.approx(
        report["erank_intra_textbook_on_sample"], rel=1e-3
    )


SMALL = "--rounds=2 --losses=nonl --batches=32 --classes=10,64 --dims=16 --devices=1,8 --rows=16"
SMALL += (
    " --step_rows=0 --weak_classes=8 --views=128 --ring_views=128 --large_views=256 --blocks=32"
)


@pytest.mark.slow
def test_scaling(run):
    only = "--only=loss,weak,scl"
    report, _ = run("scaling", only, *SMALL.split(), out="--json")
    sections = report["sections"]
    exchanged = {row["K"]: row["bytes exchanged"] for row in sections["loss"]}
    # A maximum, a sum and a gradient a class or, where there are more classes than rows, a row
    # and the labels; and the mean's two scalars.
    assert exchanged == {10: 4 * (3 * 10 + 2), 64: 4 * (4 * 32 + 2)}
    sent = {row["devices"]: row["bytes sent a device"] for row in sections["weak"]}
    assert sent == {1: 0, 8: 2 * 7 / 8 * 4 * (3 * 8 + 2 + 8 * 16)}
    ways = [row["keys by"] for row in sections["scl"]["gather and ring"]]
    assert ways == ["gather", "gather, in 8 blocks", "ring"]


def test_a_cell_that_would_take_too_long_is_left_out_and_said(run):
    flags = "--only=loss --losses=ntce --batches=32 --classes=10 --dims=16 --max_seconds=0"
    report, _ = run("scaling", *flags.split(), out="--json")
    (row,) = report["sections"]["loss"]
    assert row["ms"] is None and "s a call" in row["not timed"] and row["bytes exchanged"]


@pytest.mark.slow
def test_throughput(run):
    flags = "--cases=resnet18 --width=8 --batch=4 --size=8 --steps=2 --rounds=2 --peak_tflops=1"
    (row,) = run("throughput", *flags.split(), "--against=")[0]["rows"]
    assert row["images/s"] == pytest.approx(4e3 / row["ms per step"])
    assert 0 < row["loss, % of step"] < 100 and 0 < row["MFU, %"] < 100


@pytest.mark.slow
def test_the_half_hour_on_a_gpu_in_small(tmp_path):
    command = [ROOT / "benchmarks" / "gpu_half_hour.sh", "--toy", "--losses=ntce"]
    command += [f"--out={tmp_path}"]

    def started(*flags):
        environment = os.environ | {"PYTHON": sys.executable, "XLA_FLAGS": ""}
        done = subprocess.run(
            [*command, *flags], env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        parts = [line.split(":")[0] for line in done.stdout.splitlines() if " s)" in line]
        return done.returncode, parts, json.loads((tmp_path / "half_hour.json").read_text())

    # No time to train: that is said, what was measured is kept, and the rest can follow.
    status, parts, report = started("--minutes=0")
    assert status == 1 and parts == ["device_check", "throughput", "train_timed"]
    assert "ended by its time limit" in (tmp_path / "half_hour.md").read_text()
    # As many epochs as were found to fit.
    (tmp_path / "plan.json").write_text(json.dumps({"epochs": 1, "losses": ["ntce"]}))
    status, parts, report = started()
    assert status == 0, report
    assert parts == ["device_check", "throughput", "train_ntce"]
    assert {row["right"] for row in report["check"]["rows"]} == {"yes", None}
    assert report["throughput"]["rows"][0]["images/s"] > 0
    assert report["train"]["rows"][0]["test accuracy"] > 0.1
    assert "| ntce | 1 " in (tmp_path / "half_hour.md").read_text()
    assert started()[1] == []  # nothing is done twice
