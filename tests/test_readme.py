"""What the README and the package say of themselves is true."""

import configparser
import re

from small_runs import ROOT

from hsproto import losses, methods
from hsproto import metrics as metrics_lib

README = (ROOT / "README.md").read_text()


def test_the_examples_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 4
    exec(compile("\n".join(blocks), "README.md", "exec"), {})


def test_every_loss_is_in_the_table():
    for name in methods.LOSSES:
        assert f"\n| `{name}` |" in README
        assert getattr(losses, name).__doc__


def test_every_metric_of_the_report_is_explained():
    explained = README[README.index("### What the metrics mean") :].replace("`..._std`", "")
    for name in metrics_lib.METRICS:
        assert f"`{name}`" in explained or name.endswith("_std"), name


def test_every_path_named_exists():
    for path in re.findall(
        r"(?:configs|docs|hsproto|launch|benchmarks)/[a-z_]+\.(?:py|png|sh|sbatch)", README
    ):
        assert (ROOT / path).exists(), path


def test_ci_runs_the_test_command_of_the_readme():
    command = re.search(r"-m pytest[^\n]*", README).group()
    assert command in (ROOT / ".ci/run").read_text()


def test_requirements_are_ranges_that_admit_both_pythons():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options"]["python_requires"] == ">=3.11"
    assert "jax>=0.10,<0.13" in (ROOT / "requirements.txt").read_text().splitlines()
