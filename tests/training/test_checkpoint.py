"""Checkpoints tell damage from storage that is away, and replaced ones from damaged ones."""

import errno
import json
import shutil
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsproto.errors import RunFailure, UserError
from hsproto.runs import storage
from hsproto.training import checkpoint as checkpoint_lib
from hsproto.training.checkpoint import Checkpoints
from hsproto.training.inspection import inspect


class State(NamedTuple):
    values: Any


def save(checkpoints, step, values):
    state = State(values)
    checkpoints.save(step, state, inspect(state).digest)


@pytest.fixture
def checkpoints(tmp_path):
    """A run's checkpoints of steps 1 and 2, each holding its step."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            save(checkpoints, step, jnp.full(4, step))
        checkpoints.wait()
        yield checkpoints


ABSTRACT = State(jax.ShapeDtypeStruct((4,), jnp.int32))


def failing(checkpoints, monkeypatch, errors):
    """The next reads of a checkpoint raise `errors`, one after another."""
    restore = checkpoints._manager.restore

    def attempt(*args, **kwargs):
        if errors:
            raise errors.pop(0)
        return restore(*args, **kwargs)

    monkeypatch.setattr(checkpoints._manager, "restore", attempt)


def test_a_read_that_fails_once_is_tried_again(checkpoints, monkeypatch, tmp_path):
    failing(checkpoints, monkeypatch, [OSError(errno.ESTALE, "Stale file handle")])
    state, step = checkpoints.restore(ABSTRACT)
    assert step == 2 and state.values.tolist() == [2] * 4
    assert not list(tmp_path.glob("checkpoints/unreadable*"))


def test_storage_that_fails_ends_the_run_and_costs_no_checkpoint(checkpoints, monkeypatch):
    failing(checkpoints, monkeypatch, [OSError(errno.EIO, "Input/output error")] * 2)
    with pytest.raises(UserError, match="step 2.*cannot be reached.*Input/output error"):
        checkpoints.restore(ABSTRACT)
    assert checkpoints.steps() == [1, 2]


def test_where_none_can_be_read_nothing_is_set_aside(checkpoints, monkeypatch):
    failing(checkpoints, monkeypatch, [ValueError("not a zarr array")] * 4)
    with pytest.warns(UserWarning, match="step 1 is not readable"):
        with pytest.raises(UserError, match="not a zarr array.*damaged or another version's"):
            checkpoints.restore(ABSTRACT)
    assert checkpoints.steps() == [1, 2]


def test_a_damaged_one_is_passed_over_and_set_aside(checkpoints, monkeypatch, tmp_path):
    failing(checkpoints, monkeypatch, [ValueError("not a zarr array")] * 2)
    with pytest.warns(UserWarning, match="step 2 is not readable: not a zarr array"):
        state, step = checkpoints.restore(ABSTRACT)
    assert step == 1 and state.values.tolist() == [1] * 4
    assert checkpoints.steps() == [1]
    assert len(list(tmp_path.glob("checkpoints/unreadable_2_*"))) == 1


def test_flipped_bits_give_the_older_checkpoint_and_never_other_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_lib, "_PAUSE", 0)
    values = jax.random.normal(jax.random.key(0), (64, 256))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            save(checkpoints, step, values + step)
    newest = tmp_path / "checkpoints/2"
    files = [path for path in newest.rglob("*") if path.is_file() and path.stat().st_size]
    abstract = State(jax.ShapeDtypeStruct(values.shape, values.dtype))
    chosen = np.random.default_rng(0)
    steps = []
    for i in range(40):
        file = files[i % len(files)]
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[chosen.integers(len(whole))] ^= 1 << chosen.integers(8)
        file.write_bytes(damaged)
        with Checkpoints(tmp_path) as checkpoints, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state, step = checkpoints.restore(abstract)
        assert jnp.array_equal(state.values, values + step), file
        steps.append(step)
        file.write_bytes(whole)
    assert steps.count(1) > 15


def test_a_state_that_is_not_finite_counts_as_bad(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        save(checkpoints, 1, jnp.ones(4))
        save(checkpoints, 2, jnp.array([1.0, jnp.nan, 1.0, 1.0]))
        checkpoints.wait()
        with pytest.warns(UserWarning, match="step 2 is not readable: .* not finite"):
            state, step = checkpoints.restore(State(jax.ShapeDtypeStruct((4,), jnp.float32)))
    assert step == 1 and jnp.all(state.values == 1)


def test_a_checkpoint_without_a_digest_is_read_as_those_of_the_first_version(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        save(checkpoints, 1, jnp.full(4, 1))
    path = tmp_path / "checkpoints/1/_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"custom_metadata": {}}))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(ABSTRACT)[1] == 1
    path.write_text(path.read_text()[:-9])
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.warns(UserWarning, match="metadata are damaged"):
            with pytest.raises(UserError, match="metadata are damaged"):
                checkpoints.restore(ABSTRACT)


def test_a_reader_takes_the_next_one_where_the_run_has_replaced_it(tmp_path, recwarn):
    """The run saves step 3, and keeps one, between the reader's listing and its reading."""
    with Checkpoints(tmp_path, keep=1) as run:
        save(run, 2, jnp.full(4, 2))
        run.wait()
        with Checkpoints(tmp_path) as reader:
            assert reader.steps() == [2]
            save(run, 3, jnp.full(4, 3))
            run.wait()
            state, step = reader.restore(ABSTRACT)
    assert step == 3 and state.values.tolist() == [3] * 4 and not recwarn.list


def test_a_reader_makes_no_folder(tmp_path):
    with Checkpoints(tmp_path / "none") as checkpoints:
        assert checkpoints.steps() == [] and checkpoints.restore(ABSTRACT) is None
    assert not (tmp_path / "none").exists()


def test_a_removed_workdir_ends_the_run(tmp_path):
    workdir = tmp_path / "run"
    with Checkpoints(workdir, keep=1) as checkpoints:
        save(checkpoints, 1, jnp.full(4, 1))
        checkpoints.wait()
        shutil.rmtree(workdir)
        with pytest.raises(RunFailure, match="was removed while its run went on"):
            save(checkpoints, 2, jnp.full(4, 2))
    assert not workdir.exists()


def refusing(checkpoints, monkeypatch, times):
    """The next saves fail."""
    save_ = checkpoints._manager.save
    errors = [OSError(errno.ENOSPC, "No space left on device")] * times

    def attempt(*args, **kwargs):
        if errors:
            raise errors.pop()
        return save_(*args, **kwargs)

    monkeypatch.setattr(checkpoints._manager, "save", attempt)
    monkeypatch.setattr(storage, "PAUSES", (0, 0))


def test_the_last_state_is_saved_again_until_the_storage_takes_it(
    checkpoints, monkeypatch, recwarn
):
    state = State(jnp.full(4, 3))
    refusing(checkpoints, monkeypatch, 2)
    checkpoints.save(3, state, inspect(state).digest)
    checkpoints.ensure(3, state, inspect(state).digest)
    assert checkpoints.steps() == [2, 3]
    assert len(recwarn) == 1 and "its newest checkpoint is that of step 2" in str(
        recwarn[0].message
    )


def test_where_it_never_does_the_run_ends_with_a_line(checkpoints, monkeypatch):
    state = State(jnp.full(4, 3))
    refusing(checkpoints, monkeypatch, 99)
    with pytest.warns(UserWarning, match="No space left"):
        with pytest.raises(RunFailure, match="step 3, the last, could not be saved.*No space left"):
            checkpoints.ensure(3, state, inspect(state).digest)
    assert checkpoints.steps() == [1, 2]
