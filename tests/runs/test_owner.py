"""A folder has one owner: of several that want it one gets it; one that is gone delays nobody.

Where another machine is meant, the record of one is written by hand.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from small_runs import ROOT

from hsproto.errors import UserError
from hsproto.runs import owner


def record(folder):
    return json.loads((folder / owner.NAME).read_text())


def leave(folder, **changes):
    """The file of an owner that is no more, of this machine or, with another place, of another."""
    holder = owner.Owner(str(folder), lambda _: None)
    holder._identity |= changes
    assert holder._create(holder._path)
    os.close(holder._file)


def take(folder, **options):
    """What is said when the folder is taken for a moment."""
    said = []
    with owner.owned(str(folder), log=said.append, **options):
        assert record(folder)["process"] == os.getpid()
    assert os.listdir(folder) == []
    return said


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(owner, "RENEWAL_SECONDS", 0.05)


def test_of_many_that_start_at_once_exactly_one_owns_also_after_a_kill(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "tests/helpers/owners.py", tmp_path, "24", "5"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for number, found in enumerate(json.loads(done.stdout)):
        ((winner, _, said),) = [told for told in found["told"] if told[1] == "mine"]
        others = [told[1] for told in found["told"] if told[1] != "mine"]
        assert len(others) == 4
        assert all(f"is in use by process {winner} on " in text for text in others), others
        # In every other round the owner before had been killed: taken over at once, with one line.
        taken = number % 2 == 1
        assert len(said) == taken and all("is taken over from process" in line for line in said)
        assert found["left"] == ([] if taken else ["owner.json"])


def test_the_message_names_process_host_time_and_the_way_out(tmp_path):
    with owner.owned(str(tmp_path)), pytest.raises(UserError) as error:
        take(tmp_path)
    text = str(error.value)
    assert text.startswith(f"--workdir={tmp_path} is in use by process {os.getpid()} on ")
    assert "(since 20" in text and text.endswith("wait for it or use another --workdir")
    assert take(tmp_path) == []


def test_an_exception_gives_the_folder_back(tmp_path):
    with pytest.raises(KeyError), owner.owned(str(tmp_path)):
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path):
    leave(tmp_path, started=1)
    (line,) = take(tmp_path)
    assert f"{tmp_path} is taken over from process {os.getpid()}" in line


@pytest.mark.parametrize("place", ["elsewhere", owner._place()], ids=["far", "copied"])
def test_an_owner_that_cannot_be_seen_is_watched(tmp_path, place, quick):
    """One on another machine; or a copy of the file of one that owns another folder."""
    source = tmp_path / "source"
    source.mkdir()
    leave(source, place=place)
    folder = tmp_path / "run"
    folder.mkdir()
    if place == "elsewhere":
        (source / owner.NAME).rename(folder / owner.NAME)
    else:
        shutil.copy(source / owner.NAME, folder / owner.NAME)
    waiting, taken = take(folder, patience=0.4)
    assert "waiting up to 0.4 s for a sign of life" in waiting and "taken over" in taken


def test_an_owner_on_another_machine_that_renews_its_file_keeps_the_folder(
    tmp_path, quick, monkeypatch
):
    holder = owner.Owner(str(tmp_path), lambda _: None)
    holder._identity |= {"place": "elsewhere", "host": "far", "process": 7}
    holder.take("--workdir", str(tmp_path), owner.Watch(tmp_path), print)
    # Only changes count: neither clock is right.
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with pytest.raises(UserError, match="in use by process 7 on far"):
        take(tmp_path, patience=2)
    holder.release()
    assert take(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"token": 3}', b"0" * 9999])
def test_a_damaged_file_is_replaced_after_a_while(tmp_path, content):
    (tmp_path / owner.NAME).write_bytes(content)
    lines = take(tmp_path, patience=0.2)
    assert len(lines) == 2 and "its owner.json is damaged" in lines[1]


def test_who_was_replaced_is_told_and_touches_nothing(tmp_path, quick):
    told = threading.Event()
    with owner.owned(str(tmp_path), on_lost=lambda other: told.set()) as mine:
        other = json.dumps(record(tmp_path) | {"token": "0" * 32})
        (tmp_path / "new").write_text(other)
        os.replace(tmp_path / "new", tmp_path / owner.NAME)
        assert told.wait(10) and mine.lost
    assert (tmp_path / owner.NAME).read_text() == other


def test_a_file_that_was_removed_or_damaged_is_renewed(tmp_path, quick):
    path = tmp_path / owner.NAME
    with owner.owned(str(tmp_path)) as mine:
        for spoil in (path.unlink, lambda: path.write_bytes(b"?" + path.read_bytes()[1:])):
            spoil()
            until = time.monotonic() + 10
            while not path.exists() or path.read_bytes()[:1] != b"{":
                assert time.monotonic() < until
                time.sleep(0.02)
        assert not mine.lost and record(tmp_path)["process"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_links_has_one_owner_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    with owner.owned(str(tmp_path)), pytest.raises(UserError, match="is in use by"):
        take(tmp_path)
    leave(tmp_path, started=1)
    assert len(take(tmp_path)) == 1


def test_a_link_whose_answer_was_lost_counts(tmp_path, monkeypatch):
    link = os.link

    def silent(*names):
        link(*names)
        raise FileExistsError

    monkeypatch.setattr(os, "link", silent)
    assert take(tmp_path) == []


def test_what_killed_processes_left_is_tidied(tmp_path):
    leave(tmp_path, started=1)
    shutil.move(tmp_path / owner.NAME, tmp_path / f"{owner.NAME}.left")
    (tmp_path / f"{owner.NAME}.begun.new").touch()
    assert take(tmp_path) == []


def test_one_that_was_killed_while_it_took_over_holds_nobody_up(tmp_path):
    leave(tmp_path, started=1, token="a" * 32)
    shutil.move(tmp_path / owner.NAME, tmp_path / "kept")
    leave(tmp_path, started=1, token="b" * 32)
    shutil.move(tmp_path / owner.NAME, tmp_path / f"{owner.NAME}.{'a' * 32}")
    shutil.move(tmp_path / "kept", tmp_path / owner.NAME)
    assert len(take(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="is not writable: No such file"):
        take(tmp_path / "none")
