"""A short training run, with faults at chosen operations on the files of its workdir.

By default a few operations are tried of each kind; with HSPROTO_FAULTS=N that many, evenly spaced,
and with HSPROTO_FAULTS=all every one, which takes hours.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from small_runs import ROOT, outcome

HERE = pathlib.Path(__file__).parent
SECONDS = 120  # after which a command counts as hung
RUN = (
    "digits.py:width=4,epochs=1,batch_size=512,eval_batch_size=512,warmup_epochs=0,log_every=1,"
    "checkpoint_every_epochs=0.3,eval_every_epochs=1,keep_checkpoints=1,snapshot_points=20"
)


class Commands:
    """Runs `hsproto ...` with faults, one after another."""

    def __init__(self, library, environment):
        self._server = subprocess.Popen(
            [sys.executable, HERE / "server.py"],
            env=environment | {"LD_PRELOAD": str(library)},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout.readline() == "ready\n"

    def run(self, *arguments, log, **faults):
        """Return the exit status, None if it hung; FAULTY_FOLDER=..., ... as faulty_io.c has."""
        request = [list(map(str, arguments)), {k: str(v) for k, v in faults.items()}, str(log)]
        print(json.dumps([*request, SECONDS]), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())

    def close(self):
        self._server.stdin.close()
        self._server.wait(timeout=10)


@pytest.fixture(scope="session")
def commands(tmp_path_factory, child_environment):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("faults need a C compiler (cc)")
    library = tmp_path_factory.mktemp("faults") / "faulty_io.so"
    source = HERE / "faulty_io.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    commands = Commands(library, child_environment)
    yield commands
    commands.close()


class Trial:
    """A workdir in which the run is started, disturbed, and resumed."""

    def __init__(self, commands, folder):
        self._commands = commands
        self.workdir, self.log = folder / "run", folder / "log.txt"
        self._count = folder / "count.txt"

    def train(self, **faults):
        """Return the exit status of the training command."""
        return self._commands.run(
            "train",
            f"--config={ROOT}/configs/{RUN}",
            f"--workdir={self.workdir}",
            log=self.log,
            FAULTY_FOLDER=self.workdir,
            FAULTY_COUNT=self._count,
            **{f"FAULTY_{name}": value for name, value in faults.items()},
        )

    @property
    def operations(self):
        """The number of operations of the last command that ended by itself."""
        return int(self._count.read_text())

    @property
    def text(self):
        return self.log.read_text(errors="replace")

    def result(self):
        """All that the run has written and that must not depend on a fault."""
        with np.load(self.workdir / "prototypes.npz") as stored:
            prototypes = {name: stored[name].tolist() for name in stored}
        leftovers = [path.name for path in self.workdir.rglob("*.tmp")]
        pictures = [path.name for path in self.workdir.glob("*.png") if path.stat().st_size]
        steps = [path.name for path in (self.workdir / "snapshots").iterdir()]
        checkpoints = [p.name for p in (self.workdir / "checkpoints").iterdir() if p.name.isdigit()]
        kept = max(checkpoints, key=int)
        return outcome(self.workdir), prototypes, leftovers, sorted(pictures), sorted(steps), kept


@pytest.fixture(scope="session")
def undisturbed(commands, tmp_path_factory):
    """An undisturbed run: its number of operations, and its result."""
    trial = Trial(commands, tmp_path_factory.mktemp("undisturbed"))
    assert trial.train() == 0, trial.text
    return trial.operations, trial.result()


@pytest.fixture
def trials(commands, tmp_path):
    """Yields fresh trials."""

    def fresh():
        for i in range(10**6):
            folder = tmp_path / str(i)
            folder.mkdir()
            yield Trial(commands, folder)
            shutil.rmtree(folder)

    return fresh()
