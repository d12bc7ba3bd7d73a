"""A call in a process of its own, which a vendor's compiler may end without ending the command."""

import multiprocessing
import multiprocessing.connection
import os
import pathlib
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from typing import Any

from hsproto.errors import UserError, visible

_VALUE, _LOG, _ERROR, _FAULT = "value", "log", "error", "fault"
# What a native library writes before it gives up: glog's fatal lines, and what is known as such.
_LAST_WORDS = re.compile(
    r"^F\d{4} [^\]]*\] (.*)|(?i:(stack overflow|bad_alloc|out of memory|check failed.*))", re.M
)


class Died(Exception):
    """The process ended without a result; the text says how, as `ended with SIGSEGV`."""


def call(function: Callable[..., Any], log: Callable[[str], Any], *arguments: Any) -> Any:
    """Return `function(log, *arguments)`, computed by a new process.

    What native libraries write there to the standard error stream is not shown.

    Args:
        function: A module's own, and importable; it, its arguments and its value can be pickled.
        log: Called here with each line that `function` logs there.

    Raises:
        UserError, OSError: `function` raised it.
        Died: The process was ended, by a crash or from outside.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        written = pathlib.Path(folder, "stderr")
        process = context.Process(
            target=_work, args=(sender, str(written), function, arguments), daemon=True
        )
        process.start()
        sender.close()
        try:
            return _received(receiver, log)
        except (EOFError, ConnectionError):
            process.join()
            raise Died(_end(process.exitcode, written)) from None
        finally:
            process.kill()
            process.join()


def _received(receiver, log):
    while True:
        kind, content = receiver.recv()
        if kind == _VALUE:
            return content
        if kind == _ERROR:
            raise content
        if kind == _FAULT:
            raise RuntimeError(content)
        log(content)


def _work(sender, written, function, arguments):
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stderr.flush()
    os.dup2(os.open(written, os.O_WRONLY | os.O_CREAT), 2)
    try:
        value = function(lambda line: sender.send((_LOG, line)), *arguments)
        sender.send((_VALUE, value))
    except (UserError, OSError) as error:
        sender.send((_ERROR, error))
    except Exception:  # told with its trace in the process that asked
        sender.send((_FAULT, traceback.format_exc()))


def _end_with_parent():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _end(status, written):
    """How a process ended, from its exit status and from what its libraries wrote."""
    if status == -signal.SIGKILL:
        return "was killed, as the system does where memory runs out"
    how = f"ended with {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
    text = written.read_text(errors="replace") if written.exists() else ""
    words = _LAST_WORDS.search(text)
    return f"{how}: {visible(words[1] or words[2])[:200].lower()}" if words else how
