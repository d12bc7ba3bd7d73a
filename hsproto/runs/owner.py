"""One owner per folder: owner.json in a workdir names the process that writes there.

The file is made as a whole or not at all, also on a network file system, and its owner renews it
every few seconds. It is stale if its process is gone, which on the same machine is seen at once, or
if it has not changed for PATIENCE seconds on the reader's own clock: wall clocks need not agree. A
stale one is taken over; readers of the folder never look at it.

The launchers import this module with whatever Python runs them: it needs the standard library only.
"""

import contextlib
import datetime
import errno
import glob
import hashlib
import json
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hsproto.errors import UserError

NAME = "owner.json"
RENEWAL_SECONDS = 10
# Several renewals, and the time for which a network file system may show an old state.
PATIENCE = 60
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class Record(NamedTuple):
    """What an owner file says.

    Attributes:
        text: All of it, which changes with every renewal.
        token: What no other owner has; of a damaged file a digest.
        process: The number of the process; None if the file is damaged.
        host: Its machine's name.
        since: When it became the owner, for people.
        place: What tells the machine, its start and the process namespace from all others.
        started: The start of the process on the machine's own clock; None if that is unknown.
        original: Whether this is the file that the owner made, and no copy.
    """

    text: str
    token: str
    process: int | None = None
    host: str = "an unknown host"
    since: str = "an unknown time"
    place: str = ""
    started: int | None = None
    original: bool = False

    def __str__(self):
        if self.process is None:
            return "an unknown process (its owner.json is damaged)"
        return f"process {self.process} on {self.host} (since {self.since})"


class Watch:
    """Tells whether the owner of a folder lives, by its process or by two looks at its file.

    Args:
        folder: The owned folder.
        patience: Seconds without a renewal after which an owner of another machine is dead.
    """

    def __init__(self, folder: str | os.PathLike, patience: float = PATIENCE):
        self._path, self.patience = os.path.join(folder, NAME), patience
        self._seen: tuple[Record, float] | None = None

    def look(self, path: str | None = None) -> tuple[Record | None, bool | None]:
        """Return (the owner or None, whether it lives or None if only time can tell)."""
        record = _read(path or self._path)
        if record is None:
            return None, False
        alive = _process_lives(record)
        if alive is not None:
            return record, alive
        now = time.monotonic()
        if self._seen is None or self._seen[0].token != record.token:
            self._seen = record, now
            return record, None
        if self._seen[0].text != record.text:
            return record, True
        return record, False if now - self._seen[1] >= self.patience else None

    def wait(
        self, log: Callable[[str], None], path: str | None = None
    ) -> tuple[Record | None, bool]:
        """Return (the owner or None, whether it lives), after waiting for a renewal if need be."""
        record, alive = self.look(path)
        if alive is None:
            log(
                f"{os.path.dirname(self._path)} is marked as in use by {record}; waiting up to "
                f"{self.patience:g} s for a sign of life"
            )
        while alive is None:
            time.sleep(min(1, self.patience / 10))
            record, alive = self.look(path)
        return record, alive


class _InUse(Exception):
    """The owner file at a path is that of a living process: (path, record)."""


class Owner:
    """The ownership of a folder by this process, until `release`."""

    def __init__(self, folder: str, on_lost: Callable[[str], None]):
        self._path, self._on_lost = os.path.join(folder, NAME), on_lost
        self._process = os.getpid()
        self._released = threading.Event()
        self._renewals = 0
        self._token = uuid.uuid4().hex
        self._file: int | None = None
        self._lock = threading.Lock()  # of the file, between its renewal and its end
        self._identity = {
            "process": self._process,
            "host": platform.node() or "an unnamed host",
            "since": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
            "place": _place(),
            "started": _start_and_state(self._process)[0],
            "token": self._token,
        }
        # Whether another process has taken the folder over: nothing may be written any more.
        self.lost = False

    def take(self, flag: str, folder: str, watch: Watch, log: Callable[[str], None]) -> None:
        """Become the owner. Raises UserError, which begins with `flag`, if another one lives."""
        until = time.monotonic() + watch.patience
        while True:
            try:
                taken_from = self._take(self._path, watch, log)
                break
            except _InUse as error:
                path, record = error.args
                # Who is taking the folder over is the owner in a moment, or leaves it to another.
                if path == self._path or time.monotonic() > until:
                    raise UserError(
                        f"{flag}={folder} is in use by {record}: wait for it or use another {flag}"
                    ) from None
            time.sleep(0.02)
        if taken_from is not None:
            log(f"{folder} is taken over from {taken_from}, which is gone")
        self._tidy()
        threading.Thread(target=self._renew_always, daemon=True).start()

    def _take(self, path, watch, log):
        """Make the file, and return whose file it replaces, or None."""
        while not self._create(path):
            record, alive = watch.wait(log, path)
            if alive:
                raise _InUse(path, record)
            if record is None:
                continue
            # Of all who find this owner gone, only the one who creates the successor's file may
            # replace it. That one may be gone too, hence the recursion.
            successor = f"{path}.{record.token}"
            self._take(successor, watch, log)
            found = _read(path)
            if found is not None and found.token == record.token:
                os.replace(successor, path)
                return record
            os.unlink(successor)
        return None

    def _create(self, path):
        """Create a file with the record; return False if there is one already."""
        temporary = f"{path}.{self._token}.new"
        file = os.open(temporary, _FLAGS | os.O_TRUNC, 0o644)
        try:
            self._write(file)
            file = self._put(path, temporary, file)
        except OSError:
            os.close(file)
            raise
        finally:
            _remove(temporary)
        if file is None:
            return False
        if self._file is not None:
            os.close(self._file)
        self._file = file
        return True

    def _put(self, path, temporary, file):
        """Give a file its place; return it opened, or None if the place is taken."""
        error = None
        try:
            os.link(temporary, path)
        except OSError as raised:
            error = raised
        # An answer of a network file system may be lost: the number of links tells the truth.
        if os.fstat(file).st_nlink > 1:
            return file
        # FileNotFoundError: an owner has tidied the temporary file away.
        if error is not None and not isinstance(error, FileExistsError | FileNotFoundError):
            # A file system without links: made exclusively, and whole a moment later.
            with contextlib.suppress(FileExistsError):
                made = os.open(path, _FLAGS | os.O_EXCL, 0o644)
                try:
                    self._write(made)
                except OSError:
                    os.unlink(path)
                    os.close(made)
                    raise
                os.close(file)
                return made
        os.close(file)
        return None

    def _write(self, file):
        # Always of one length, and in place: the file of another owner is another file.
        number = os.fstat(file).st_ino
        content = self._identity | {"file": number, "renewals": f"{self._renewals:012d}"}
        os.pwrite(file, (json.dumps(content, indent=1) + "\n").encode(), 0)
        os.fsync(file)

    def _renew_always(self):
        while not self._released.wait(RENEWAL_SECONDS):
            # Storage that fails for a while must not end the run: the next renewal may succeed.
            with contextlib.suppress(OSError), self._lock:
                if self._released.is_set() or not self._renew():
                    return

    def _renew(self):
        """Renew the file; return False if another process has taken over."""
        self._renewals += 1
        record = _read(self._path)
        if record is None:  # somebody removed it
            self._create(self._path)
        elif record.process is not None and record.token != self._token:
            self.lost = True
            self._on_lost(str(record))
            return False
        else:
            self._write(self._file)
        return True

    def _tidy(self):
        """Remove what processes left that were killed while they took the folder."""
        for path in glob.glob(f"{glob.escape(self._path)}.*"):
            record = _read(path)
            unfinished = record is not None and record.process is None and path.endswith(".new")
            if unfinished or (record is not None and _process_lives(record) is False):
                _remove(path)

    def release(self) -> None:
        """Give the folder back, unless another process has taken it over."""
        if self._released.is_set() or os.getpid() != self._process:
            return
        self._released.set()
        with self._lock:
            with contextlib.suppress(OSError):
                record = _read(self._path)
                if record is not None and record.token == self._token:
                    _remove(self._path)
            os.close(self._file)


@contextlib.contextmanager
def owned(
    folder: str,
    flag: str = "--workdir",
    log: Callable[[str], None] = print,
    on_lost: Callable[[str], None] = lambda _: None,
    patience: float = PATIENCE,
) -> Iterator[Owner]:
    """Own a folder, which exists, within the context.

    Args:
        folder: The folder.
        flag: The option that named it, for messages.
        log: Prints a line: that an owner that is gone is replaced, or may be gone.
        on_lost: Called in a thread with who it was if another process takes the folder over, as one
            on another machine may do when this process was stopped for longer than `patience`.
        patience: Seconds without a renewal after which an owner on another machine is gone.

    Raises:
        UserError: If another process owns the folder, or it cannot be written.
    """
    owner = Owner(folder, on_lost)
    try:
        owner.take(flag, folder, Watch(folder, patience), log)
    except OSError as error:
        raise UserError(f"{flag}={folder} is not writable: {error.strerror}") from None
    try:
        yield owner
    finally:
        owner.release()


def _remove(path):
    with contextlib.suppress(OSError):
        os.unlink(path)


def _read(path):
    """The record in an owner file, or None if there is no file."""
    try:
        with open(path, "rb") as file:
            text, number = file.read(4096), os.fstat(file.fileno()).st_ino
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            return None
        raise
    decoded = text.decode("utf-8", "replace")
    try:
        content = json.loads(decoded)
        if not re.fullmatch("[0-9a-f]{32}", content["token"]):
            raise ValueError("not a token")
        return Record(
            decoded,
            content["token"],
            int(content["process"]),
            str(content["host"]),
            str(content["since"]),
            str(content["place"]),
            content["started"],
            content["file"] == number,
        )
    except (ValueError, KeyError, TypeError):
        return Record(decoded, hashlib.sha256(text).hexdigest()[:32])


def _process_lives(record):
    """Whether the process of a record lives, or None if that cannot be seen from here."""
    if record.process is None or not record.original or record.place != _place():
        return None
    try:
        os.kill(record.process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        pass
    started, state = _start_and_state(record.process)
    if started is None or record.started is None:
        return None
    # A zombie has ended. Another start: the number was given to another process.
    return started == record.started and state not in "ZX"


def _start_and_state(process):
    """The start of a process in ticks of the machine's clock and its state; None without /proc."""
    try:
        with open(f"/proc/{process}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None, ""
    return int(fields[19]), fields[0]


def _place():
    """What processes have in common that see each other's numbers."""
    parts = [platform.node()]
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        parts.append(file.read().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
