"""A second, mistaken start in the workdir of a run changes nothing there."""

import os

import pytest
from small_runs import tiny_config

from hsproto import train
from hsproto.errors import UserError
from hsproto.runs import owner


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_in_use_is_refused_untouched_and_later_free(digits_run):
    config = tiny_config(argument="epochs=6,eval_every_epochs=2,checkpoint_every_epochs=2")
    with owner.owned(str(digits_run)):
        before = contents(digits_run)
        with pytest.raises(UserError, match=f"is in use by process {os.getpid()} on"):
            train.train(config, digits_run)
        assert contents(digits_run) == before
    assert train.train(config, digits_run) is not None
    assert not (digits_run / owner.NAME).exists()


def test_a_run_that_is_refused_owns_nothing(tmp_path):
    config = tiny_config(argument="imbalance_factor=0.0001")
    with pytest.raises(UserError):
        train.train(config, tmp_path)
    assert os.listdir(tmp_path) == []
