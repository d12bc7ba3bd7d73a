"""What a run writes is whole, strict JSON, and continues where a run stopped."""

import json

from hsproto.runs import files, metrics_log
from hsproto.runs.progress import ItemProgress, Progress, duration


def test_resuming_drops_what_came_after_the_checkpoint_and_broken_lines(tmp_path):
    first = metrics_log.MetricsWriter(tmp_path)
    for step in range(1, 6):
        first.write(step, {"loss": 1.0 / step})
    first.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    second = metrics_log.MetricsWriter(tmp_path, step=3)
    second.write(4, {"loss": 9.0})
    second.close()
    records = [json.loads(line) for line in open(tmp_path / "metrics.jsonl")]
    assert [r["step"] for r in records] == [1, 2, 3, 4]
    assert records[-1]["loss"] == 9.0


def test_what_is_not_finite_is_null():
    assert (
        files.to_json({"a": float("nan"), "b": [float("inf"), 1.0]})
        == '{"a": null, "b": [null, 1.0]}'
    )


def test_tensorboard_events_are_written(tmp_path):
    events = metrics_log.MetricsWriter(tmp_path, tensorboard=True)
    events.write(1, {"loss": 0.5, "undefined": None, "test/nc1": float("nan")})
    events.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_progress_tells_step_loss_speed_and_time_left(capsys):
    progress = Progress(total_steps=3, batch_size=10, seconds_between=0.0)
    assert progress.images_per_second is None
    for step in (1, 2, 3):
        progress.step(step, 0.5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("step 3/3  loss 0.5000") and "images/s  ETA 0:00:00" in lines[-1]
    assert duration(3671) == "1:01:11"


def test_items_done_before_the_clock_started_do_not_count_into_the_time_left(monkeypatch):
    lines, now = [], [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    progress = ItemProgress(100, lines.append, "images", start=20)
    now[0] = 10.0
    progress.update(40, "evaluating")
    assert lines == ["evaluating  40/100 images  ETA 0:00:30"]


def test_the_clock_stands_still_while_paused():
    progress = Progress(total_steps=10, batch_size=10)
    progress.step(1, 0.5)
    progress.pause()
    before = progress._seconds
    assert progress._seconds == before and progress._since is None
