"""A profile times the steps it says it does, and leaves a trace."""

import itertools
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_runs import tiny

from hsproto import train
from hsproto.errors import UserError
from hsproto.training import profiler


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


def run(path, monkeypatch, steps, total, evaluated=None):
    """What a profile said of a loop: input takes 3 s, a step 1 s, an evaluation 1000 s."""
    clock, told = Clock(), []
    monkeypatch.setattr(profiler, "time", clock)

    def inputs():
        for number in range(1, total + 1):
            clock.now += 3 if number > profiler.WARM_UP_STEPS else 50
            yield number

    with profiler.Profile(path, steps, told.append) as watched:
        for number in watched.batches(inputs()):
            clock.now += 1
            watched.step(jnp.zeros(1))
            if number in (evaluated, total):
                watched.pause(jnp.zeros(1))
                clock.now += 1000
                watched.resume()
    return told


def traces(path):
    return {p.name.partition(".")[2] for p in path.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_the_share_is_that_of_the_watched_steps_alone(tmp_path, monkeypatch):
    (told,) = run(tmp_path, monkeypatch, steps=5, total=40, evaluated=12)
    assert told.startswith("profile of 5 steps: 4000.0 ms per step, 75.0 % of it waiting for input")
    assert str(tmp_path / "profile") in told and "\n" not in told
    assert traces(tmp_path / "profile") >= {"xplane.pb"}


def test_a_run_that_is_too_short_says_so_and_profiles_what_there_is(tmp_path, monkeypatch):
    for total in (4, profiler.WARM_UP_STEPS):
        (told,) = run(tmp_path, monkeypatch, steps=5, total=total)
        assert told.startswith(f"--profile=5: the run ended after {total} steps")
    first, second = run(tmp_path, monkeypatch, steps=5, total=profiler.WARM_UP_STEPS + 2)
    assert "ended after 12 steps" in first
    assert second.startswith("profile of 2 steps: 4000.0 ms per step, 75.0 %")


def test_nothing_is_traced_or_said_without_a_profile_or_after_an_error(tmp_path, monkeypatch):
    assert run(tmp_path, monkeypatch, steps=0, total=40) == []
    told = []
    with pytest.raises(ZeroDivisionError), profiler.Profile(tmp_path / "b", 5, told.append) as p:
        for _ in p.batches(itertools.repeat(0, 12)):
            p.step(jnp.zeros(1))
        raise ZeroDivisionError
    assert told == [] and not (tmp_path / "profile").exists()
    assert run(tmp_path, monkeypatch, steps=1, total=20), "the trace of the failed run has ended"


@pytest.mark.slow
def test_a_profiled_run_leaves_a_trace_and_says_how_long_it_waited(tmp_path, capsys):
    """A streamed run, whose images are cropped on the host."""
    rng = np.random.default_rng(0)
    for split, i in itertools.product(("train", "test"), range(16)):
        path = tmp_path / "data" / split / "ab"[i % 2]
        path.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (12, 10 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{i}.png")
    argument = f"source=folder,data_dir={tmp_path / 'data'},placement=stream,channels=3"
    argument += ",batch_size=16,eval_batch_size=16,warmup_epochs=0,epochs=14"
    argument += ",eval_every_epochs=99,checkpoint_every_epochs=99"
    workdir = tmp_path / "run"
    flags = [f"--config={tiny('digits', argument)}", f"--workdir={workdir}"]
    assert train.main([*flags, "--profile=3"]) == 0
    told = capsys.readouterr().out
    found = re.findall(
        r"profile of 3 steps: ([\d.]+) ms per step, ([\d.]+) % of it waiting for input", told
    )
    assert len(found) == 1 and float(found[0][0]) > 0 and 0 <= float(found[0][1]) <= 100
    assert traces(workdir / "profile") >= {"xplane.pb", "trace.json.gz"}
    assert '"crop_on": "host"' in (workdir / "config.json").read_text()


@pytest.mark.parametrize("text", ["0", "-3", "some"])
def test_a_number_of_steps_that_is_none_is_refused(tmp_path, text):
    with pytest.raises(UserError, match=f"--profile.*{text}"):
        train.main(["--config=configs/digits.py", f"--workdir={tmp_path}", f"--profile={text}"])
