"""A workdir that is removed under its run ends the run with one line, and stays away."""

import shutil

import pytest
from small_runs import tiny_config

from hsproto import train
from hsproto.errors import RunFailure
from hsproto.evaluation.evaluator import Evaluator
from hsproto.runs import summary as summary_lib


def remove(workdir):
    while workdir.exists():  # a save goes on meanwhile
        shutil.rmtree(workdir, ignore_errors=True)


@pytest.mark.parametrize("when", ["in an evaluation", "in its second half", "before the summary"])
def test_a_removed_workdir_ends_the_run(when, tmp_path, monkeypatch):
    workdir, evaluations = tmp_path / "run", []
    embed_all, write_results = Evaluator.embed_all, summary_lib.write_results

    def removing(self, *args):
        evaluations.append(args)
        if len(evaluations) == {"in an evaluation": 1, "in its second half": 2}.get(when):
            remove(workdir)
        return embed_all(self, *args)

    def removing_first(*args):
        if when == "before the summary":
            remove(workdir)
        write_results(*args)

    monkeypatch.setattr(Evaluator, "embed_all", removing)
    monkeypatch.setattr(summary_lib, "write_results", removing_first)
    config = tiny_config(argument="width=4,epochs=1,batch_size=512,warmup_epochs=0")
    with pytest.raises(RunFailure, match="run was removed while its run went on"):
        train.train(config, workdir)
    assert not (workdir / "config.json").exists()
