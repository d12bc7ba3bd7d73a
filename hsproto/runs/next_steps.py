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


def better_state(workdir: str, step: int, accuracy: float) -> str:
    """Return the line that tells of a state before the last that did better on the test images."""
    folder = shlex.quote(str(workdir))
    return (
        f"The state of step {step} did better, test accuracy {accuracy:.4f}, and is kept too:\n"
        f"  hsproto predict --workdir={folder} --checkpoint={step} IMAGE...\n"
        "(It was chosen by these test images, so that its accuracy on new ones will be lower.)"
    )


def describe(workdir: str, source: str) -> str:
    """Return the files of a finished run that are there, and what to type next, as lines.

    `source` is the config key: a run on features predicts files of features.
    """
    lines = [f"In {workdir}:"]
    for name, what in _CONTENTS.items():
        path = os.path.join(workdir, name)
        if os.path.exists(path):
            lines.append(f"  {name + '/' * os.path.isdir(path):<14}{what}")
    folder = shlex.quote(str(workdir))
    what = "FILE.npz" if source == "features" else "IMAGE..."
    lines += [
        "Next:",
        f"  hsproto report {folder} --out=report     # a page to look at: report/index.html",
        f"  hsproto predict --workdir={folder} {what}",
        f"  hsproto evaluate --workdir={folder}",
    ]
    return "\n".join(lines)
