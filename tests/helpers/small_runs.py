"""Small runs for the tests: recipes shrunk to seconds, and what they wrote."""

import json
import pathlib

from hsproto.cli import load_config

ROOT = pathlib.Path(__file__).parents[2]
SMALL = "width=12,epochs=3,eval_every_epochs=1,checkpoint_every_epochs=0.25,log_every=1"
SMALL += ",batch_size=64,eval_batch_size=240,warmup_epochs=1"


def merged(*arguments):
    """Config arguments as one, in which the last value of a key counts."""
    items = [item for item in ",".join(arguments).split(",") if item]
    return ",".join("=".join(pair) for pair in dict(i.split("=", 1) for i in items).items())


def tiny(recipe="digits", argument=""):
    """A recipe shrunk to seconds, as the command line names it."""
    return f"{ROOT}/configs/{recipe}.py:{merged(SMALL, argument)}"


def tiny_config(recipe="digits", argument=""):
    return load_config(tiny(recipe, argument))


def recipe(name, more=""):
    """The config of `NAME` or `NAME:key=value,...`, with more of these."""
    stem, _, argument = name.partition(":")
    return load_config(f"{ROOT}/configs/{stem}.py:{merged(argument, more)}")


def outcome(workdir):
    """All metrics that a run wrote, in order, and its summary without what time decides."""
    summary = json.loads((workdir / "summary.json").read_text())
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], {k: summary[k] for k in ("step", "test", "train")}
