"""Progress over items: lines at the right time, with the time left at the pace so far."""

from hsproto.runs import progress


def test_items_have_a_line_each_or_one_every_few_seconds(monkeypatch):
    times = iter([0.0, 10.0, 0.0, 4.0, 6.0, 10.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    lines = []
    progress.ItemProgress(3, lines.append, seconds_between=0).update(1, "fog  error 0.5000")
    every_five = progress.ItemProgress(4, lines.append, "images")
    for done in (1, 2, 3):
        every_five.update(done)
    assert lines == ["fog  error 0.5000  1/3  ETA 0:00:20", "2/4 images  ETA 0:00:06"]
