"""XLA's compilation cache: what one command compiled, the next reads from the user's cache folder.

Only commands switch it on; who imports hsproto decides for himself. JAX's own settings go first:
JAX_COMPILATION_CACHE_DIR says where, JAX_ENABLE_COMPILATION_CACHE=false switches it off.
"""

import contextlib
import hashlib
import os
import platform
import sys

LIMIT = 2**30  # bytes
_ENOUGH = 0.8  # of the limit: what is left when it was exceeded


def use() -> None:
    """Let JAX keep what it compiles. Where that is impossible, say so and go on without."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = os.path.join(user_folder(), "xla", _machine())
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "no permission to write there")
        prune(folder)
    except OSError as error:
        print(
            f"hsproto: without a compilation cache, as {folder} cannot be written: "
            f"{error.strerror}; --no_compilation_cache switches it off",
            file=sys.stderr,
        )
        return
    import jax  # not before the command is known to be one of JAX's

    jax.config.update("jax_compilation_cache_dir", folder)
    # The defaults leave out most programs of a small network; each is a small file.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def prune(folder: str, limit: int = LIMIT) -> None:
    """Delete the oldest files of a folder if all together exceed `limit` bytes.

    JAX's own bound needs a package that it does not bring along.
    """
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            # Another command may prune at the same time.
            with contextlib.suppress(FileNotFoundError):
                files.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    total = sum(size for _, size, _ in files)
    if total <= limit:
        return
    for _, size, path in sorted(files):
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        total -= size
        if total <= _ENOUGH * limit:
            return


def user_folder() -> str:
    """Return the folder of all that hsproto keeps for a user between commands."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative path there is to be ignored.
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "hsproto")


def _machine():
    """A name for this kind of processor: machines that share a home may differ in theirs.

    What XLA compiled for one kind may end another with an illegal instruction.
    """
    kind = platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        lines = file.read().splitlines()
        names = ("model name", "flags", "Features")
        kind += next((line for line in lines if line.startswith(names[0])), "")
        kind += next((line for line in lines if line.startswith(names[1:])), "")
    return f"{platform.machine()}-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
