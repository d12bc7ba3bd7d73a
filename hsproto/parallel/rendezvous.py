"""The roll call of a run's processes, before JAX joins them.

JAX's own service aborts with a stack trace when a process is missing or numbers do not fit. So they
first meet at the address that it is going to use: process 0 listens there until all have named
their numbers, and answers each with what is wrong, if anything.
"""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from hsproto.errors import UserError, one_line

MAX_PROCESSES = 65536
_GREETING_BYTES = 4096
_GREETING_SECONDS = 5  # for a caller to name itself: it may be a scanner of ports
_RETRY_SECONDS = 0.5
_QUIET_SECONDS = 5  # of waiting without a word: processes hardly start at once


class Address(NamedTuple):
    """Where process 0 is reached."""

    host: str
    port: int

    def __str__(self):
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address in HOST:PORT. Raise UserError if it is none."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise UserError(
            f"--coordinator={text} must be HOST:PORT with a port in 1..65535, e.g. node1:8476"
        )
    return Address(host, int(port))


def check_numbers(count: int, index: int) -> None:
    """Raise UserError unless a process `index` of `count` can be."""
    if not 1 <= count <= MAX_PROCESSES:
        raise UserError(f"--num_processes={count} must be in 1..{MAX_PROCESSES}")
    if not 0 <= index < count:
        raise UserError(
            f"--process_id={index} must be in 0..{count - 1}, as --num_processes={count}"
        )


def meet(
    address: Address, count: int, index: int, seconds: float, log: Callable[[str], None]
) -> None:
    """Wait until all processes are there.

    Args:
        address: Where process 0 listens.
        count: The number of processes.
        index: The number of this one.
        seconds: The start-up time: how long to wait.
        log: Prints a line, about what is waited for.

    Raises:
        UserError: If processes are missing after that time, if two have the same number or expect
            another number of processes, or if the address cannot be used.
    """
    until = time.monotonic() + seconds
    if index == 0:
        _call_the_roll(address, count, seconds, until)
    else:
        _answer(address, count, index, seconds, until, log)


def _call_the_roll(address, count, seconds, until):
    listener = _listen(address)
    callers: dict[int, socket.socket] = {}
    try:
        with listener:
            mistake = _gather(listener, callers, count, until)
        if mistake is None and len(callers) < count - 1:
            missing = [i for i in range(1, count) if i not in callers]
            mistake = (
                f"{_named(missing)} of {count} did not join at {address} within {seconds:g} s "
                "(--startup_timeout): start all processes with the same --coordinator"
            )
        for caller in callers.values():
            with contextlib.suppress(OSError):
                caller.settimeout(_GREETING_SECONDS)
                caller.sendall(json.dumps({"mistake": mistake}).encode() + b"\n")
    finally:
        for caller in callers.values():
            caller.close()
    if mistake:
        raise UserError(mistake)


def _listen(address):
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(
            ("", address.port), family=family, dualstack_ipv6=dual, backlog=1024
        )
    except OSError as error:
        raise UserError(
            f"--coordinator={address}: process 0 cannot listen on port {address.port} "
            f"({os.strerror(error.errno or errno.EINVAL)}): choose another port, unless process 0 "
            "was started twice"
        ) from None


def _gather(listener, callers, count, until):
    """Add the sockets of all processes that call; return what is wrong, or None."""
    while len(callers) < count - 1 and (remaining := until - time.monotonic()) > 0:
        listener.settimeout(remaining)
        try:
            caller, _ = listener.accept()
        except TimeoutError:
            break
        greeting = _read_line(caller, min(remaining, _GREETING_SECONDS))
        index, expected = greeting.get("index"), greeting.get("count")
        if not isinstance(index, int):
            caller.close()
            continue
        if index == 0 or (index in callers and not _has_left(callers[index])):
            callers[-1] = caller
            return f"two processes were started with --process_id={index}"
        callers[index] = caller
        if len(callers) == count - 1:
            for left in [i for i, waiting in callers.items() if _has_left(waiting)]:
                callers.pop(left).close()
        if expected != count:
            return (
                f"--num_processes={count} in process 0, {expected} in process {index}: "
                "give all processes the same number"
            )
    return None


def _has_left(caller):
    """Whether a process has closed its connection, e.g. because it was started again."""
    caller.setblocking(False)
    try:
        return caller.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _named(missing):
    shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
    return f"process{'es' * (len(missing) > 1)} {shown}"


def _answer(address, count, index, seconds, until, log):
    what = f"process 0 at --coordinator={address}"
    greeting = json.dumps({"index": index, "count": count}).encode() + b"\n"
    reason, told, tell = "", False, time.monotonic() + min(_QUIET_SECONDS, seconds / 2)
    while (left := until - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=left) as caller:
                caller.sendall(greeting)
                # Process 0 is the first to run out of time, and then says who is missing.
                answer = _read_line(caller, left + 2)
        except (OSError, UnicodeError) as error:  # also an unknown host: it may become known
            reason = getattr(error, "strerror", None) or one_line(error)
        else:
            if "mistake" in answer:
                if answer["mistake"] is not None:
                    raise UserError(one_line(answer["mistake"]))
                return
            reason = "it does not answer as process 0 of a run"
        if not told and time.monotonic() > tell:
            log(f"process {index} of {count}: waiting up to {seconds:g} s for {what} ({reason})")
            told = True
        time.sleep(min(_RETRY_SECONDS, max(0, until - time.monotonic())))
    raise UserError(
        f"{what} could not be reached within {seconds:g} s (--startup_timeout): {reason}"
    )


def _read_line(connection, seconds):
    """The JSON object in the next line, or {}: nothing is said about who calls."""
    received, until = b"", time.monotonic() + seconds
    try:
        while not received.endswith(b"\n") and len(received) < _GREETING_BYTES:
            connection.settimeout(max(0.01, until - time.monotonic()))
            part = connection.recv(_GREETING_BYTES)
            if not part:
                break
            received += part
        content = json.loads(received)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
