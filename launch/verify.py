"""Whether the tables of docs/results are those that its records give."""

import itertools
import pathlib
import subprocess
import sys
import tempfile

from interpreter import interpreter


def verify(folder: pathlib.Path) -> int:
    """Recompute all tables of the records FOLDER/NAME.json and compare them with FOLDER/NAME/.

    That folder is as `hsproto report` writes it, but for tables/*.md, which report.md holds, too.
    README.md of the folder must hold the table of verdicts. Prints what differs; returns an exit
    status.
    """
    records = sorted(folder.glob("*.json"))
    if not records:
        print(f"hsproto: --verify={folder} holds no records (*.json)", file=sys.stderr)
        return 2
    wrong = [line for path in records for line in _differences(path)]
    for line in wrong:
        print(line)
    print(f"{folder}: {'differs' if wrong else 'all tables are those of the records'}")
    return 1 if wrong else 0


def _differences(path):
    with tempfile.TemporaryDirectory() as made:
        command = [interpreter(), "-m", "hsproto", "report", str(path), f"--out={made}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            yield f"{path}: {done.stderr.strip()}"
            return
        new, old = _files(pathlib.Path(made)), _files(path.with_suffix(""))
    for name in sorted(set(new) | set(old)):
        if new.get(name) != old.get(name):
            what = "is missing" if name not in old else "differs" if name in new else "is no table"
            yield f"{path.with_suffix('') / name} {what}"
    readme = path.parent / "README.md"
    if not readme.exists() or _rows(new["report.md"]) not in readme.read_text():
        yield f"{readme} does not hold the verdicts of {path}"


def _files(folder):
    paths = [*folder.glob("*.md"), *folder.glob("tables/*.csv")]
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def _rows(report):
    """The first table of a report, that of the verdicts."""
    lines = report.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    return "\n".join(itertools.takewhile(lambda line: line.startswith("|"), lines[start:]))
