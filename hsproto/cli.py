"""The command line: the commands by name, flags, a config file with overrides, exit statuses."""

import argparse
import contextlib
import errno
import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hsproto import packaged
from hsproto.errors import RunFailure, UserError, visible
from hsproto.parallel import compilation_cache, signals


class Command(NamedTuple):
    """A command: the module whose `main(argv)` it runs, its group in the help, and one line.

    `compiles` says that it runs a network, which XLA compiles; `extras` are those of the package
    that it needs; `resumes` says that the same command goes on where it was stopped.
    """

    module: str
    group: str
    summary: str
    compiles: bool = False
    extras: str = "train"
    resumes: bool = False


NO_CACHE = "--no_compilation_cache"
_OBJECTS_BETWEEN_SEARCHES = 50_000  # for cycles; Python's 700 take seconds of a short run
_TRAIN, _MEASURE, _REPORT = "Train and use", "Measure", "Compare and inspect"
COMMANDS = {
    "train": Command(
        "hsproto.train", _TRAIN, "train or resume a run of a config", compiles=True, resumes=True
    ),
    "configs": Command("hsproto.configs", _TRAIN, "the packaged recipes, a line each"),
    "head": Command(
        "hsproto.head",
        _TRAIN,
        "train a classifier on features of any network",
        compiles=True,
        resumes=True,
    ),
    "evaluate": Command("hsproto.evaluate", _TRAIN, "accuracy and geometry of a checkpoint", True),
    "predict": Command("hsproto.predict", _TRAIN, "classify images with a run", True),
    "export": Command(
        "hsproto.export",
        _TRAIN,
        "write a run as a predictor that needs jax alone",
        compiles=True,
        extras="train,export",
    ),
    "compile": Command(
        "hsproto.compile",
        _TRAIN,
        "compile a recipe for TPUs or GPUs that are not there: does it fit?",
    ),
    "measure": Command(
        "hsproto.measure", _MEASURE, "how collapsed are the features of any network", True
    ),
    "probe": Command(
        "hsproto.evaluation.probe", _MEASURE, "fixed prototypes against linear probing", True
    ),
    "transfer": Command(
        "hsproto.evaluation.transfer", _MEASURE, "linear classifiers on other data sets", True
    ),
    "robustness": Command(
        "hsproto.evaluation.robustness", _MEASURE, "errors on corrupted images, mCE", True
    ),
    "ood": Command(
        "hsproto.evaluation.ood", _MEASURE, "detect images of other data sets: AUROC, FPR95", True
    ),
    "calibration": Command(
        "hsproto.evaluation.calibration", _MEASURE, "ECE and NLL, before and after a fit", True
    ),
    "retrieval": Command(
        "hsproto.evaluation.retrieval", _MEASURE, "recall@k and MAP@R of the test images", True
    ),
    "report": Command("hsproto.report", _REPORT, "a page, tables and figures of many runs"),
    "convergence": Command(
        "hsproto.reporting.convergence", _REPORT, "share of training until the geometry converges"
    ),
    "corruptions": Command(
        "hsproto.evaluation.corruptions", _REPORT, "make corrupted images of a test set"
    ),
    "augment": Command(
        "hsproto.data.contact_sheet", _REPORT, "a contact sheet of augmented images"
    ),
}


def main(argv: list[str] | None = None) -> None:
    """Run `hsproto NAME ...` and exit with its status."""
    argv = sys.argv[1:] if argv is None else argv
    run(_dispatch, argv)


def _dispatch(argv):
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if argv else 2
    name, *rest = argv
    if name == "--version":
        print(importlib.import_module("importlib.metadata").version("hsproto"))
        return 0
    if name not in COMMANDS:
        raise UserError(f"{name!r} is not a command; `hsproto --help` lists them")
    command = COMMANDS[name]
    with signals.exit_if_terminated() if command.resumes else contextlib.nullcontext():
        with _extra_named(name):
            main_of_command = _load(name)
            if command.compiles and NO_CACHE not in rest and not _asks_for_help(rest):
                compilation_cache.use()
            # Tracing makes objects by the million, few of them in cycles.
            gc.set_threshold(_OBJECTS_BETWEEN_SEARCHES, 20, 20)
            return main_of_command(rest)


def _asks_for_help(argv):
    return "-h" in argv or "--help" in argv


def _load(name):
    return importlib.import_module(COMMANDS[name].module).main


@contextlib.contextmanager
def _extra_named(name):
    """Raise UserError with the extra that a command lacks, where one is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "hsproto").partition(".")[0] == "hsproto":
            raise
        raise UserError(
            f"`hsproto {name}` needs the package {error.name!r}, which is not installed: "
            f"pip install 'hsproto[{COMMANDS[name].extras}]'"
        ) from None


def _help():
    lines = ["usage: hsproto COMMAND [--help] ...", ""]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines.append(f"{group}:")
        for name, command in COMMANDS.items():
            if command.group == group:
                lines.append(f"  {name:<13}{command.summary}")
        lines.append("")
    lines.append("Each command has its own --help.")
    return "\n".join(lines)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors: one line, status 2."""

    def __init__(self, doc, **kwargs):
        super().__init__(
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **kwargs,
        )
        name = self.prog.rpartition(" ")[2]
        if name in COMMANDS and COMMANDS[name].compiles:  # `main` looks for it
            self.add_argument(
                NO_CACHE, action="store_true",
                help="do not keep what XLA compiles in the user's cache folder",
            )  # fmt: skip

    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")

    def parse_with_config(self, argv: list[str]) -> tuple[argparse.Namespace, Any]:
        """Return the flags, and the checked config of `--config=RECIPE[:key=value,...]`.

        `--config.key=value` overrides a key.
        """
        self.add_argument(
            "--config", metavar="RECIPE[:key=value,...]", required=True,
            help="a recipe, by its name or as a FILE.py, and the keys to change",
        )  # fmt: skip
        self.epilog = (
            f"recipes:\n{packaged.listing()}\n\n"
            "`hsproto configs NAME` shows all keys of a recipe and their values"
        )
        self.usage = f"{self.format_usage()[7:].strip()} [--config.key=value ...]"
        args, rest = self.parse_known_args(argv)
        overrides = [a for a in rest if a.startswith("--config.")]
        unknown = [a for a in rest if a not in overrides]
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return args, load_config(args.config, overrides)


def local_path(text: str) -> str:
    """Return a path of the command line with `~` expanded, as the type of an argument.

    A remote location is refused: taken as a path it would make a local folder of that name, and a
    run would look kept where it is not.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is a remote location, which cannot be read or written directly: mount it, "
            "and give the folder"
        )
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise argparse.ArgumentTypeError(f"{text!r} names the home of an unknown user")
    return path


def make_output_folder(out: str, inside: str = "") -> None:
    """Create the folder of `--out`, and one inside it. Raises UserError if that is impossible."""
    try:
        os.makedirs(os.path.join(out, inside), exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out} is no folder to write to: {error.strerror}") from None


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select a run and one of its states."""
    parser.add_argument("--workdir", type=local_path, required=True, help="the workdir of a run")
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the newest")


def load_config(location: str, overrides: Sequence[str] = ()) -> Any:
    """Return the checked config of a `RECIPE[:argument]` with `--config.key=value` overrides.

    A recipe is a file, or the name of one that comes with the package.
    """
    from absl import flags  # commands without a config need neither
    from ml_collections import config_flags

    from hsproto import config as config_lib
    from hsproto import config_checks

    name, colon, argument = location.partition(":")
    path = packaged.path_of(name)
    if not os.path.isfile(path):
        raise UserError(f"--config={location}: no file {name!r}; {packaged.instead_of(name)}")
    for override in overrides:
        if "=" not in override:
            raise UserError(f"{override} is not of the form --config.key=value")
    argv = ["hsproto", f"--config={path}{colon}{argument}"]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
        config = holder.value
        for override in overrides:
            key, _, text = override.removeprefix("--config.").partition("=")
            config_lib.set_value(config, key, text)
        # A config file that cannot be loaded raises at the first access of a key, not before.
        config_checks.validate(config)
    except UserError as error:
        raise _innermost(error) from None
    except Exception as error:  # a recipe is user code and may raise anything
        text = " ".join(str(error.args[0] if error.args else error).split())
        raise UserError(f"--config={' '.join([location, *overrides])}: {text}") from None
    return config


_STORAGE_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE,
)  # fmt: skip


def run(main: Callable[[list[str]], int], argv: list[str]) -> None:
    """Run `main(argv)` and exit: with status 0, or 2 and one line for what the user can fix."""
    # Python's own handler raises KeyboardInterrupt anywhere, including JAX's callbacks, which
    # swallow it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Names of files and classes may hold what the terminal's encoding lacks.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main(argv))
    except UserError as error:
        print(f"hsproto: {visible(error)}", file=sys.stderr)
        sys.exit(2)
    except RunFailure as error:
        print(f"hsproto: {visible(error)}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of the output, e.g. `head`, is gone; at exit Python would flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _STORAGE_ERRORS:
            raise
        verb = "read or write" if error.errno == errno.EACCES else "write"
        place = error.filename or "a file"
        print(f"hsproto: cannot {verb} {place}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


def _innermost(error):
    # ml_collections wraps what get_config raises in a copy whose text is a traceback.
    while isinstance(error.__context__, UserError):
        error = error.__context__
    return error
