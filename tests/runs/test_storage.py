"""What a run writes while its storage fails."""

import errno
import json

import pytest

from hsproto.runs import storage
from hsproto.runs.files import write_atomically
from hsproto.runs.metrics_log import MetricsWriter, read_metrics
from hsproto.runs.storage import Complaints, persist


class FullDisk:
    """A file that takes `room` bytes, then raises, until it `has_room`."""

    def __init__(self, file, room):
        self._file, self._room, self.has_room = file, room, False

    def write(self, data):
        if not self.has_room and not self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = data if self.has_room else data[: self._room]
        self._room -= min(self._room, len(part))
        return self._file.write(part)

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(storage, "PAUSES", (0, 0))


def test_lines_are_kept_in_memory_until_there_is_room(tmp_path, recwarn):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 1.0})
        writer._file = disk = FullDisk(writer._file, room=10)
        for step in (2, 3):
            writer.write(step, {"loss": 1.0})
        assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1]
        disk.has_room = True
        writer.write(4, {"loss": 1.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert len(recwarn) == 1 and "keeps its lines in memory" in str(recwarn[0].message)
    assert writer.failure is None


def test_lines_that_are_lost_are_told(tmp_path):
    with pytest.warns(UserWarning, match="last lines could not be written.*No space left"):
        with MetricsWriter(tmp_path) as writer:
            writer._file = FullDisk(writer._file, room=0)
            writer.write(1, {"loss": 1.0})
    assert "No space left" in writer.failure


def test_what_repeats_is_said_once_a_minute(monkeypatch, recwarn):
    now = [0.0]
    monkeypatch.setattr(storage.time, "monotonic", lambda: now[0])
    complaints = Complaints()
    for now[0] in (0, 1, 59, 61, 62, 122):
        complaints.warn(f"at {now[0]}")
    assert [str(w.message) for w in recwarn] == ["at 0", "at 61", "at 122"]
    assert complaints.last == "at 122"


@pytest.mark.parametrize(("failures", "error"), [(2, None), (3, errno.EIO)])
def test_a_write_is_repeated_until_it_succeeds(failures, error):
    attempts = []

    def write():
        attempts.append(1)
        if len(attempts) <= failures:
            raise OSError(errno.EIO, "Input/output error")

    ended = persist(write)
    assert (ended and ended.errno) == error and len(attempts) == 3


def test_a_write_into_a_removed_folder_is_not_repeated():
    with pytest.raises(FileNotFoundError):
        persist(lambda: open("/none/at/all", "w"))


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary):
        with open(temporary, "w") as file:
            file.write("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, write)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old"
