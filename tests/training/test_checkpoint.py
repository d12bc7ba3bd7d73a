"""Checkpoints tell damage from storage that is away."""

import errno
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from hsproto.errors import UserError
from hsproto.training.checkpoint import Checkpoints


class State(NamedTuple):
    values: Any


@pytest.fixture
def checkpoints(tmp_path):
    """A run's checkpoints of steps 1 and 2, each holding its step."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, State(jnp.full(4, step)))
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
