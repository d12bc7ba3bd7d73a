"""The command line: flags, a config file with overrides, and exit statuses."""

import argparse
import errno
import os
import signal
import sys

from absl import flags
from ml_collections import config_flags

from hsproto import config as config_lib
from hsproto.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors: one line, status 2."""

    def __init__(self, doc, **kwargs):
        super().__init__(
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **kwargs,
        )

    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")

    def parse_with_config(self, argv):
        """Flags of this parser, and the config of `--config=FILE[:key=value,...]`, checked.

        `--config.key=value` overrides a key.
        """
        self.add_argument("--config", metavar="FILE.py[:key=value,...]", required=True)
        self.usage = f"{self.format_usage()[7:].strip()} [--config.key=value ...]"
        args, rest = self.parse_known_args(argv)
        overrides = [a for a in rest if a.startswith("--config.")]
        unknown = [a for a in rest if a not in overrides]
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return args, load_config(args.config, overrides)


def add_run_flags(parser):
    """The flags that say which state of which run."""
    parser.add_argument("--workdir", required=True, help="the workdir of a run")
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the newest")


def load_config(location, overrides=()):
    """The checked config of a `FILE.py[:argument]` with `--config.key=value` overrides."""
    path = location.partition(":")[0]
    if not os.path.isfile(path):
        raise UserError(f"--config={location}: no file {path!r}")
    for override in overrides:
        if "=" not in override:
            raise UserError(f"{override} is not of the form --config.key=value")
    argv = ["hsproto", f"--config={location}"]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
        config = holder.value
        for override in overrides:
            key, _, text = override.removeprefix("--config.").partition("=")
            config_lib.set_value(config, key, text)
        # A config file that failed to load raises at the first access of a key, not before.
        config_lib.validate(config)
    except UserError as error:
        raise _innermost(error) from None
    except Exception as error:  # a config file is the user's code and may raise anything
        text = " ".join(str(error.args[0] if error.args else error).split())
        raise UserError(f"--config={' '.join([location, *overrides])}: {text}") from None
    return config


def run(main):
    """Runs `main(argv)` as a command: status 0, or 2 with one line for what the user can mend."""
    # Python's own handler raises KeyboardInterrupt wherever the program is, in JAX's callbacks
    # too, which swallow it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"hsproto: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read the output, as `head`, has seen enough; Python's exit would flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        print(f"hsproto: cannot write: {error}", file=sys.stderr)
        sys.exit(2)


def _innermost(error):
    # ml_collections wraps what get_config raises in a copy whose text is a traceback.
    while isinstance(error.__context__, UserError):
        error = error.__context__
    return error
