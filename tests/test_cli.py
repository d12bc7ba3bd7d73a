"""The command line: recipes by name, help, and the compilation cache of commands."""

import os
import subprocess
import sys

import pytest
from small_runs import ROOT

from hsproto import cli, configs, packaged
from hsproto.errors import UserError
from hsproto.parallel import compilation_cache


def test_a_packaged_recipe_is_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = cli.load_config("digits:epochs=3", ["--config.seed=7"])
    assert (config.source, config.epochs, config.seed) == ("digits", 3.0, 7)
    assert packaged.names() == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def test_a_file_goes_before_the_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "configs/digits.py").read_text()
    (tmp_path / "cifar").write_text(text)
    assert packaged.path_of("cifar") == "cifar"


@pytest.mark.parametrize(
    ("location", "told"),
    [
        (
            "configs/digits.py",
            "no file 'configs/digits.py'; the recipe 'digits' is --config=digits",
        ),
        ("digit:epochs=3", "the recipe 'digits' is --config=digits"),
        ("nothing_like_it.py", "the recipes are cifar, "),
    ],
)
def test_who_misses_a_recipe_is_told_its_name(location, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        cli.load_config(location)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_configs_lists_the_recipes_a_line_each_and_shows_one(capsys):
    assert configs.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in packaged.names():
        assert any(line.startswith(f"  {name} ") and len(line) > 40 for line in lines), name
    assert configs.main(["digits"]) == 0
    told = capsys.readouterr().out
    assert "Expected, in less than a minute" in told
    assert any(line.split() == ["temperature", "0.1"] for line in told.splitlines())
    with pytest.raises(UserError, match="no recipe 'digit'; the recipe 'digits'"):
        configs.main(["digit"])


def test_the_help_of_train_lists_the_recipes_and_says_where_the_keys_are(capsys):
    from hsproto import train

    with pytest.raises(SystemExit):
        train.main(["--help"])
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in packaged.names())
    assert "hsproto configs NAME" in told and "--no_compilation_cache" in told


# Run as a user would: without the tests' own cache.
PROGRAM = """
import sys
from hsproto import cli, configs
import jax, jax.numpy as jnp

def main(argv):
    cli.Parser(__doc__, prog="hsproto evaluate").parse_args(argv)
    print("cache:", jax.config.jax_compilation_cache_dir)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.jit(lambda x: jnp.sin(x) + 1)(jnp.ones(3))
    return 0

configs.main = main
cli.COMMANDS["evaluate"] = cli.COMMANDS["evaluate"]._replace(module="hsproto.configs")
cli.main(["evaluate", *sys.argv[1:]])
"""


def ran(tmp_path, *flags, **environment):
    inherited = {key: value for key, value in os.environ.items() if "CACHE" not in key}
    environment = inherited | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"} | environment
    program = [sys.executable, "-c", PROGRAM, *flags]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    place = done.stdout.split("cache: ")[1].splitlines()[0]
    return place, [line for line in done.stderr.splitlines() if line.startswith("hsproto: ")]


def test_commands_keep_what_they_compile_in_the_users_cache_folder(tmp_path):
    place, told = ran(tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert place.startswith(str(tmp_path / "cache/hsproto/xla")) and told == []
    assert any(name.startswith("jit_") for name in os.listdir(place))


def test_the_cache_is_switched_off_by_the_flag_and_elsewhere_by_jaxs_variable(tmp_path):
    home = str(tmp_path / "home")
    assert ran(tmp_path, "--no_compilation_cache", HOME=home) == ("None", [])
    own = str(tmp_path / "own")
    assert ran(tmp_path, HOME=home, JAX_COMPILATION_CACHE_DIR=own) == (own, [])
    assert not os.path.exists(home)


def test_a_cache_folder_that_cannot_be_written_is_told_once_and_the_command_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    place, told = ran(tmp_path, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert place == "None"
    assert len(told) == 1 and "without a compilation cache" in told[0]


def test_the_cache_is_bounded_and_the_oldest_files_go_first(tmp_path):
    for number in range(10):
        path = tmp_path / f"jit_{number}"
        path.write_bytes(bytes(100))
        os.utime(path, (number, number))
    compilation_cache.prune(tmp_path, limit=1000)
    assert len(os.listdir(tmp_path)) == 10
    compilation_cache.prune(tmp_path, limit=999)
    assert sorted(os.listdir(tmp_path)) == [f"jit_{number}" for number in range(3, 10)]


def test_importing_the_package_sets_no_cache():
    program = (
        "import hsproto.losses, hsproto.train, jax; print(jax.config.jax_compilation_cache_dir)"
    )
    environment = {key: value for key, value in os.environ.items() if "CACHE" not in key}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["None"], done.stderr
