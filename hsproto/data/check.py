"""Every image of a data set, decoded before any training."""

import dataclasses
from typing import Any

from hsproto.data import decode
from hsproto.data import load as load_lib
from hsproto.data.source import data_spec
from hsproto.errors import visible


def check(config: Any) -> int:
    """Decode every image that a config names and print those that cannot be used, one per line.

    Returns:
        The exit status: 0, or 2 if there are any.

    Raises:
        UserError: the data set as a whole is not as it should be.
    """
    # What would be left out is shown too.
    splits = load_lib.read_splits(dataclasses.replace(data_spec(config), skip_unreadable=False))
    problems = {}
    for source in splits:
        for error in decode.find_unreadable(source).values():
            problems |= dict(error.problems)
    for name, reason in problems.items():
        print(visible(f"{name} ({reason})"))
    images = sum(map(len, splits))
    print(f"{images} images of {len(splits.train.class_names)} classes, {len(problems)} unreadable")
    return 2 if problems else 0
