"""What a finished run says last: where its results lie, and the commands that use them."""

import os
import shlex

_CONTENTS = {
    "summary.json": "these figures",
    "training.png": "curves over training",
    "cosines.png": "cosines between prototypes and between class means",
    "snapshots": "features of test images over training",
    "checkpoints": "the states to go on from",
}


def describe(workdir: str, source: str) -> str:
    """Return the files of a finished run that are there, and what to type next, as lines.

    Args:
        workdir: Of the run.
        source: The config key: a run on features predicts files of them.
    """
    lines = [f"In {workdir}:"]
    for name, what in _CONTENTS.items():
        path = os.path.join(workdir, name)
        if os.path.exists(path):
            lines.append(f"  {name + '/' * os.path.isdir(path):<14}{what}")
    folder = shlex.quote(str(workdir))
    files = "FILE.npz" if source == "features" else "IMAGE..."
    lines += [
        "Next:",
        f"  hsproto report {folder} --out=report     # a page to look at: report/index.html",
        f"  hsproto predict --workdir={folder} {files}",
        f"  hsproto evaluate --workdir={folder}",
    ]
    return "\n".join(lines)
