"""What the README and the pages in docs/ say is true: examples run, commands parse, paths exist."""

import ast
import configparser
import contextlib
import functools
import importlib
import importlib.util
import inspect
import io
import os
import re
import shlex
import subprocess
import sys

import pytest
from small_runs import ROOT

from hsproto import config as config_lib
from hsproto import geometry, losses, metrics
from hsproto.cli import COMMANDS, load_config

README = (ROOT / "README.md").read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if path.parent.name != "tables"  # the report's own
}
# Its scripts need more than the others, and each stands alone.
FRAMEWORKS = "docs/frameworks.md"
# Its examples are those of a run.
PYTHON = "docs/python.md"
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def blocks(page, *languages):
    """The content of the fenced blocks of a page in these languages, in order."""
    fences = re.findall(r"^ *```(\S*)([^\n]*)\n(.*?)^ *```$", PAGES[page], re.DOTALL | re.MULTILINE)
    for language, tag, content in fences:
        assert not tag or language.startswith("{"), f"{page}: ```{language}{tag}"
        if language in languages:
            yield content


def titles(page):
    """The headings of the sections of a page, in order."""
    return re.findall(r"^## (.+)$", PAGES[page], re.MULTILINE)


def commands(page):
    """The command lines of a page, as (words, line), assigned variables put in."""
    for block in blocks(page, "bash", "console"):
        assigned = {}
        for line in block.replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ")
            if assignment := re.fullmatch(r"(\w+)=(.*)", line):
                assigned[assignment[1]] = shlex.split(assignment[2])[0]
                continue
            for name, value in assigned.items():
                line = line.replace(f"${name}", value)
            for command in line.split("&&"):
                if words := shlex.split(command, comments=True):
                    yield words, line


def pages_with(*languages):
    return [page for page in PAGES if any(blocks(page, *languages))]


@functools.cache
def help_of(*program):
    """What `program --help` prints. A program is a name in COMMANDS or a command line."""
    if program[0] in COMMANDS:
        output = io.StringIO()
        main = importlib.import_module(COMMANDS[program[0]].module).main
        with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as ended:
            main(["--help"])
        assert ended.value.code == 0
        return output.getvalue()
    done = subprocess.run([*program, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_flags(program, words):
    """Every flag of `words` is one of the program's, and every config one that loads."""
    known = set(re.findall(r"(?<![\w-])--?[\w-]+", help_of(*program)))
    overrides = [word for word in words if word.startswith("--config.")]
    for word in words:
        flag, _, value = word.partition("=")
        if flag.startswith("-") and word not in overrides:
            assert flag in known, f"{flag} is not a flag of {' '.join(program)}"
        if flag == "--config" and value:
            # A recipe by its name is found from anywhere.
            load_config(str(ROOT / value) if ".py" in value else value, overrides)


def check_command(words):
    words = [word.removeprefix(".venv/bin/") for word in words]
    if words[0].startswith("python"):
        if words[1:3] == ["-m", "venv"]:
            return check_flags((sys.executable, "-m", "venv"), words[3:])
        if words[1:3] == ["-m", "pytest"]:
            return check_flags((sys.executable, "-m", "pytest"), words[3:])
        if words[1] == "-m":
            name = words[2].removeprefix("hsproto.") if "." in words[2] else words[3]
            if "." in words[2]:
                assert importlib.util.find_spec(words[2]), words[2]
            assert name in COMMANDS, name
            return check_flags((name,), words[3:])
        assert (ROOT / words[1]).is_file(), words[1]
        return check_flags((sys.executable, words[1]), words[2:])
    if words[0] == "hsproto":
        if words[1] == "--help":
            return None
        assert words[1] in COMMANDS, words[1]
        return check_flags((words[1],), words[2:])
    if words[0] == "pip":
        for extras in re.findall(r"\[([\w,-]+)\]", " ".join(words)):
            assert set(extras.split(",")) <= set(SETUP["options.extras_require"])
        return check_flags((sys.executable, "-m", "pip", "install"), words[2:])
    if words[0].startswith("launch/"):
        assert os.access(ROOT / words[0], os.X_OK), words[0]
        for word in words:
            if word.startswith("--config="):
                load_config(str(ROOT / word.removeprefix("--config=")))
    return None


@pytest.mark.parametrize("page", [p for p in pages_with("python") if p not in (FRAMEWORKS, PYTHON)])
def test_the_examples_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples(page)


def test_the_examples_of_a_run_in_python_run_in_order(digits_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/digits").symlink_to(digits_run)
    monkeypatch.chdir(tmp_path)
    run_examples(PYTHON)


def run_examples(page):
    namespace = {}
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("script", list(blocks(FRAMEWORKS, "python")), ids=titles(FRAMEWORKS))
def test_the_script_of_a_framework_runs_where_it_is_installed(script, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for name in re.findall(r"^(?:import|from) (\w+)", script, re.MULTILINE):
        pytest.importorskip(name)
    exec(compile(script, FRAMEWORKS, "exec"), {"__name__": FRAMEWORKS})


@pytest.mark.parametrize("page", ["docs/measure.md", "docs/features.md"])
def test_every_line_of_a_page_is_executed(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace, said = {}, ""
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", PAGES[page], re.DOTALL | re.M):
        if language == "python":
            exec(compile(code, page, "exec"), namespace)
        elif language == "bash":
            for line in code.replace("\\\n", " ").splitlines():
                name, *arguments = shlex.split(line.removeprefix("hsproto "), comments=True)
                assert importlib.import_module(COMMANDS[name].module).main(arguments) == 0
            said = capsys.readouterr().out
        else:
            assert code.strip() in said, f"{page} shows\n{code}\nbut the commands print\n{said}"


@pytest.mark.parametrize("page", pages_with("bash", "console"))
def test_the_commands_of_a_page_parse(page):
    for words, line in commands(page):
        subprocess.run(["bash", "-n", "-c", line], check=True)
        check_command(words)


@pytest.mark.parametrize("page", [page for page in PAGES if "`hsproto " in PAGES[page]])
def test_the_commands_in_running_text_have_their_flags(page):
    for name, rest in re.findall(r"`hsproto ([a-z]+)([^`]*)`", PAGES[page]):
        check_flags((name,), re.findall(r"--\w+", rest))


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_a_page_exists(page):
    check_paths(page, PAGES[page])


def test_every_path_of_the_build_notes_exists():
    check_paths("BUILD_NOTES.md", (ROOT / "BUILD_NOTES.md").read_text())


def check_paths(page, text):
    folders = "benchmarks|configs|docs|hsproto|launch|tests"
    named = re.findall(rf"(?<![\w/.])(?:{folders})/[\w/.]*\w\.\w+", text)
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    for path in named:
        assert (ROOT / path).exists() or "NAME" in path, path
    for path in links:
        assert ((ROOT / page).parent / path).exists(), path


def test_every_command_is_explained():
    explained = PAGES["docs/commands.md"]
    for name in COMMANDS:
        assert f"| `hsproto {name} " in explained, name


def test_every_config_key_is_explained():
    explained = PAGES["docs/commands.md"].partition("## Configuration keys")[2]
    cells = re.findall(r"^\| ([^|]*) \|", explained, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(cells))) == set(config_lib.default())


def test_every_recipe_is_listed():
    for path in (ROOT / "configs").glob("*.py"):
        if "def get_config" in path.read_text():
            assert f"`{path.stem}`" in PAGES["docs/commands.md"], path


def test_every_loss_is_in_the_table():
    public = [
        name
        for name, value in vars(losses).items()
        if inspect.isfunction(value) and value.__module__ == losses.__name__ and name[0] != "_"
    ]
    assert len(public) == 8
    for name in public:
        assert f"\n| `{name}` |" in README
        assert getattr(losses, name).__doc__


def test_every_metric_of_the_report_is_explained():
    explained = PAGES["docs/geometry.md"].partition("## The metrics")[2]
    for name in (*metrics.METRICS, *geometry.optimum(10), "accuracy_many", "accuracy_adjusted"):
        assert f"`{name}`" in explained, name


def test_the_readme_is_short_enough_to_be_read():
    assert len(README.splitlines()) <= 150


def test_only_models_import_flax():
    package = ROOT / "hsproto"
    for path in package.rglob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
        wing = path.relative_to(package).parts[0]
        assert "flax" not in imported or wing == "models", path


def test_ci_runs_the_test_command_of_the_readme():
    command = re.search(r"-m pytest[^\n]*", README).group()
    assert command in (ROOT / ".ci/run").read_text()


def test_requirements_are_ranges_that_admit_both_pythons():
    assert SETUP["options"]["python_requires"] == ">=3.11"
    required = SETUP["options"]["install_requires"].splitlines()
    if required == ["file: requirements.txt"]:
        required = (ROOT / "requirements.txt").read_text().splitlines()
    assert "jax>=0.10,<0.13" in required


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run([*build, "docs", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "api.html").exists()
