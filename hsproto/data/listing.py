"""What a folder of images holds: its class folders, its image files, and what does not count."""

import contextlib
import os
import pathlib
from collections import Counter
from collections.abc import Iterator

from hsproto.data import decode
from hsproto.errors import UserError

# Folders that storage, archives and desktops put beside files; as hidden as those with a dot.
_HIDDEN = ("@eadir", "__macosx", "#recycle", "#snapshot", "$recycle.bin", "lost+found")
_HIDDEN_FILES = ("thumbs.db", "desktop.ini")


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name never counts."""
    return name.startswith(".") or name.lower() in (*_HIDDEN, *_HIDDEN_FILES)


def class_folders(path: str | os.PathLike[str]) -> list[str]:
    """Return the sorted names of the folders in `path`; hidden ones do not count.

    Raises:
        UserError: a folder cannot be read; with its name.
    """
    with _errors_named(path), os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not is_hidden(e.name))


def image_files(path: str | os.PathLike[str], skipped: Counter | None = None) -> list[str]:
    """Return the sorted paths of the image files in a folder, at any depth.

    Images are files with a suffix that Pillow reads (`decode.suffixes`). Hidden files and folders
    do not count, and a link to a folder that it lies in is not followed.

    Args:
        skipped: counts by suffix the files that are no images.

    Raises:
        UserError: a folder cannot be read; with its name.
    """
    skipped = Counter() if skipped is None else skipped
    with _errors_named(path):
        above = {_identity(place) for place in pathlib.Path(os.path.realpath(path)).parents}
        return sorted(_walk(os.fspath(path), above, skipped))


@contextlib.contextmanager
def _errors_named(path):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read the folder {error.filename or path}: {error.strerror}"
        ) from error


def _walk(folder: str, above: set, skipped: Counter) -> Iterator[str]:
    # os.walk has no end where links make a circle.
    above = above | {_identity(folder)}
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                if not entry.is_symlink() or _identity(entry.path) not in above:
                    yield from _walk(entry.path, above, skipped)
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix not in decode.suffixes():
                skipped[suffix or "without suffix"] += 1
            # A link that leads nowhere is an image that is missing, not one that does not count.
            elif entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):
                yield entry.path
            else:
                skipped[f"{suffix} that is no file"] += 1


def _identity(folder):
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def in_words(skipped: Counter) -> str:
    """Return counts of skipped files as text, the most frequent suffix first."""
    by_count = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {suffix}" for suffix, count in by_count)
