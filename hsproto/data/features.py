"""Features of any network with their labels, from npy and npz files."""

import collections
import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hsproto.data import subsets
from hsproto.data.arrays import ArraySource
from hsproto.data.source import DataSpec, Splits
from hsproto.data.stored import JoinedArray, open_arrays
from hsproto.errors import UserError

NAMES = (
    "features", "labels", "prototypes", "bias", "class_names", "test_features", "test_labels",
)  # fmt: skip
BLOCK_BYTES = 2**26  # of rows in float32 that are read at a time


class Rows:
    """Features [N, D] in files, as float32, and their labels.

    Attributes:
        shape: (N, D).
        labels: int32 [N], in 0..K-1.
    """

    def __init__(self, stored: JoinedArray):
        self.name, self._stored = stored.name, stored
        dtype, sides = stored.dtype, stored.shape
        self._bfloat16 = dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None
        if not self._bfloat16 and dtype.kind not in "fiu":
            raise UserError(f"{self.name} must be numbers; got {dtype} of shape {sides}")
        if len(sides) < 2 or any(side != 1 for side in sides[2:]):
            hint = ": average over what follows the second axis" if len(sides) > 2 else ""
            raise UserError(f"{self.name} must have the shape [N, D]; got {sides}{hint}")
        if 0 in sides:
            raise UserError(f"{self.name} is empty: its shape is {sides}")
        self.shape = sides[:2]
        self.labels = np.zeros(0, np.int32)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1, float32."""
        rows = self._stored.rows(start, stop).reshape(stop - start, self.shape[1])
        with np.errstate(over="ignore"):  # what is infinite then is counted
            return np.ascontiguousarray(
                rows.view(jnp.bfloat16) if self._bfloat16 else rows, np.float32
            )

    def read_all(self) -> np.ndarray:
        """Return all rows, float32 [N, D]. Raises UserError if they are not finite."""
        rows, found = np.empty(self.shape, np.float32), NotFinite(self)
        for start, block in self.blocks():
            rows[start : start + len(block)] = block
            found.look(start, block)
        found.refuse()
        return rows

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows) of blocks of about BLOCK_BYTES, in order."""
        size = max(1, min(BLOCK_BYTES // (4 * self.shape[1]), len(self)))
        for start in range(0, len(self), size):
            yield start, self.read(start, min(start + size, len(self)))


class NotFinite:
    """Counts the rows of a set that are not finite, block by block."""

    def __init__(self, rows: Rows):
        self._rows, self._count, self._first = rows, 0, 0

    def look(self, start: int, block: np.ndarray) -> bool:
        """Count those of a block from row `start` on; return whether there are any so far."""
        wrong = ~np.isfinite(block).all(axis=1)
        if wrong.any():
            self._first = self._first if self._count else start + int(np.argmax(wrong))
            self._count += int(wrong.sum())
        return self._count > 0

    def refuse(self) -> None:
        """Raise UserError if there was any."""
        if self._count:
            raise UserError(
                f"{self._rows.name}: {self._count} of {len(self._rows)} rows hold values that are "
                f"not finite in float32, the first is row {self._first}"
            )


class FeatureFile(NamedTuple):
    """What feature files hold.

    Attributes:
        train: The features with their labels.
        test: Those of the test set, or None.
        class_names: K names.
        prototypes: float32 [K, D], or None.
        bias: float32 [K], or None.
        notes: What was taken otherwise than it stands in the files, a line each.
    """

    train: Rows
    test: Rows | None
    class_names: tuple[str, ...]
    prototypes: np.ndarray | None
    bias: np.ndarray | None
    notes: list[str]


def read_features(
    paths: Iterable[str | os.PathLike], files: contextlib.ExitStack, labeled: bool = True
) -> FeatureFile:
    """Open feature files and check all but the features' values.

    Args:
        paths: npz files with arrays by the names of NAMES, npy files named so, or folders of them.
        files: Closes them.
        labeled: Whether labels must be there; else all that is read are features, of class 0.

    Raises:
        UserError: For what cannot be used, a line with the file and the array.
    """
    paths = list(paths)
    arrays, others = open_arrays(paths, NAMES, files)
    place = ", ".join(map(str, paths))
    if "features" not in arrays:
        held = f"only {', '.join(others)}" if others else "nothing of that kind"
        raise UserError(f"{place} lacks features [N, D] and holds {held}: name them so")
    train = Rows(arrays["features"])
    if not labeled:
        train.labels = np.zeros(len(train), np.int32)
        notes = []
        if "test_features" in arrays:
            notes.append(
                f"{place}: of features and test_features the {len(train)} rows of features are "
                "read; save the others as the features of a file of their own to have them read"
            )
        return FeatureFile(train, None, ("",), None, None, notes)
    test = Rows(arrays["test_features"]) if "test_features" in arrays else None
    notes = [f"not used: {', '.join(others)}"] if others else []
    if "labels" not in arrays:
        raise UserError(f"{place} lacks labels [N], the class of each row of features")
    for rows, name in ((train, "labels"), (test, "test_labels")):
        if rows is not None and name in arrays and len(arrays[name]) != len(rows):
            raise UserError(
                f"{arrays[name].name} has {len(arrays[name])} entries and {rows.name} {len(rows)} "
                "rows"
            )
    if test is not None and test.shape[1] != train.shape[1]:
        raise UserError(
            f"{test.name} has {test.shape[1]} columns and {train.name} {train.shape[1]}"
        )
    if test is not None and "test_labels" not in arrays:
        raise UserError(f"{place} holds test_features without test_labels")
    prototypes, bias = _classifier(arrays, train.shape[1])
    given = _class_names(arrays)
    sets = [train] if test is None else [train, test]
    labels = [_whole(arrays[name]) for name in ("labels", "test_labels")[: len(sets)]]
    number = None if prototypes is None else len(prototypes)
    if given and number not in (None, len(given)):
        raise UserError(f"{place} holds {number} prototypes and {len(given)} class names")
    labels, names = _numbered(labels, given, number, train.name, notes)
    for rows, values in zip(sets, labels, strict=True):
        rows.labels = values
    return FeatureFile(train, test, names, prototypes, bias, notes)


def load_features(spec: DataSpec) -> Splits:
    """Read the features in data_dir, a file or a folder (`read_features`), as images [N, 1, 1, D].

    With `validation_share`, that share of the rows of each class, drawn by `subset_seed`, takes the
    place of the test set.
    """
    path = spec.existing_data_dir()
    with contextlib.ExitStack() as files:
        found = read_features([path], files)
        if spec.channels not in (0, found.train.shape[1]):
            raise UserError(
                f"config key channels={spec.channels}, but {found.train.name} has "
                f"{found.train.shape[1]} columns: set channels=0"
            )
        if not spec.validation_share and found.test is None:
            raise UserError(
                f"{path} holds no test_features: add them and test_labels, or hold out a part of "
                "the features, e.g. validation_share=0.1"
            )
        train = _source(found.train, found.class_names)
        if not spec.validation_share:
            return Splits(train, _source(found.test, found.class_names))
    held_out = _held_out(train.labels, spec.validation_share, spec.subset_seed)
    return Splits(*(subsets.of_rows(train, np.flatnonzero(x)) for x in (~held_out, held_out)))


def load_rows(path: str | os.PathLike, dim: int) -> ArraySource:
    """Read the features in a file or folder without their labels, as `load_features` reads them.

    Warns where there are test_features too, which are not read.

    Raises:
        UserError: They do not have `dim` columns.
    """
    with contextlib.ExitStack() as files:
        found = read_features([path], files, labeled=False)
        rows = found.train
        for note in found.notes:
            warnings.warn(note, stacklevel=2)
        if rows.shape[1] != dim:
            raise UserError(f"{rows.name} has {rows.shape[1]} columns; the run's features {dim}")
        return _source(rows, ("",))


def statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of each feature, 1 where it does not vary."""
    rows = images.reshape(len(images), -1)
    mean = rows.mean(axis=0, dtype=np.float64)
    blocks = np.array_split(rows, max(1, len(rows) // 10_000))
    squares = sum(((block - mean) ** 2).sum(axis=0) for block in blocks)
    std = np.sqrt(squares / len(rows))
    std = np.where(std <= 1e-6 * np.abs(rows).max(axis=0), 1.0, std)
    return tuple(_short(mean)), tuple(_short(std))


def _short(numbers):
    """As few digits as config.json needs for the same float32."""
    return [float(str(number)) for number in numbers.astype(np.float32)]


def _source(rows, class_names):
    return ArraySource(rows.read_all()[:, None, None, :], rows.labels, class_names)


def _held_out(labels, share, seed):
    """Which rows are held out, bool [N]: of each class the share, at least one of two or more."""
    held_out = np.zeros(len(labels), bool)
    for label, members in subsets.rows_by_class(labels):
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, label])))
        held_out[generator.permutation(members)[:count]] = True
    return held_out


def _classifier(arrays, dim):
    prototypes = bias = None
    if "prototypes" in arrays:
        rows = Rows(arrays["prototypes"])
        if rows.shape[1] != dim:
            hint = ": transpose them" if rows.shape[0] == dim else ""
            raise UserError(f"{rows.name} must be [K, {dim}]; got {rows.shape}{hint}")
        prototypes = rows.read(0, len(rows))
    if "bias" in arrays:
        stored = arrays["bias"]
        if prototypes is None:
            raise UserError(f"{stored.name} is that of prototypes, which are not there")
        if stored.shape != (len(prototypes),) or stored.dtype.kind != "f":
            raise UserError(
                f"{stored.name} must be {len(prototypes)} floats; got {stored.dtype} of shape "
                f"{stored.shape}"
            )
        bias = stored.rows(0, len(stored)).astype(np.float32)
    for name, array in (("prototypes", prototypes), ("bias", bias)):
        if array is not None and not np.isfinite(array).all():
            raise UserError(f"{arrays[name].name} holds values that are not finite")
    return prototypes, bias


def _class_names(arrays):
    if "class_names" not in arrays:
        return None
    stored = arrays["class_names"]
    if len(stored.shape) != 1 or stored.dtype.kind not in "US":
        raise UserError(
            f"{stored.name} must be a list of strings; got {stored.dtype} of shape {stored.shape}"
        )
    names = _as_text(stored.rows(0, len(stored)), stored.name).tolist()
    name, count = collections.Counter(names).most_common(1)[0] if names else ("", 0)
    if count != 1:
        raise UserError(
            f"{stored.name} has {name!r} {count} times" if count else f"{stored.name} is empty"
        )
    return tuple(names)


def _as_text(array, name):
    try:
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not text in UTF-8 ({error})") from error


def _whole(stored):
    """Labels [N] as they stand in a file, whichever kind they are, and their name."""
    if stored.shape[1:] not in ((), (1,)):
        raise UserError(f"{stored.name} must have the shape [N]; got {stored.shape}")
    labels = stored.rows(0, len(stored)).reshape(-1)
    if labels.dtype.kind not in "iufUS":
        raise UserError(f"{stored.name} must be whole numbers or text; got {labels.dtype}")
    return labels, stored.name


def _numbered(all_labels, given, number, place, notes):
    """(labels int32 in 0..K-1 of each set, class names); `notes` gets what was changed."""
    kinds = {labels.dtype.kind in "US" for labels, _ in all_labels}
    if len(kinds) > 1:
        raise UserError(f"{all_labels[1][1]} and {all_labels[0][1]} must both be text, or neither")
    if True in kinds:
        return _of_text(all_labels, given, number, notes)
    whole = [_integers(labels, name, notes) for labels, name in all_labels]
    low, high = (f(f(x) for x in whole) for f in (min, max))
    number = len(given) if given else number
    if low < 0:
        for labels, (_, name) in zip(whole, all_labels, strict=True):
            _refuse(labels < 0, labels, name, "are below 0; leave those rows out")
    if number is None:
        return _by_value(whole, [name for _, name in all_labels], notes)
    if low == 1 and high == number:
        notes.append(f"labels are 1..{high}: taken as 0..{high - 1}")
        whole, high = [labels - 1 for labels in whole], high - 1
    if high >= number:
        for labels, (_, name) in zip(whole, all_labels, strict=True):
            what = "class names" if given else "prototypes"
            _refuse(labels >= number, labels, name, f"are not in 0..{number - 1} ({number} {what})")
    empty = np.bincount(whole[0], minlength=number) == 0
    if empty.any():
        note = f"{empty.sum()} of {number} classes have no row of features, e.g. {empty.argmax()}"
        tested = sum(int(empty[labels].sum()) for labels in whole[1:])
        notes.append(f"{note}; {tested} test rows are of them" if tested else note)
    names = given or tuple(map(str, range(number)))
    return [labels.astype(np.int32) for labels in whole], names


def _by_value(all_labels, places, notes):
    """As `_numbered`, where nothing but the labels says which classes there are: theirs."""
    values = np.unique(all_labels[0])
    count, low, high = len(values), values[0], values[-1]
    found = []
    for labels, name in zip(all_labels, places, strict=True):
        ids = np.minimum(np.searchsorted(values, labels), count - 1)
        what = "are not among the classes of labels (class_names may name classes without rows)"
        _refuse(values[ids] != labels, labels, name, what)
        found.append(ids.astype(np.int32))
    if high != count - 1:
        held = f"{low}..{high}" if high - low < count else f"{count} numbers in {low}..{high}"
        notes.append(f"labels are {held}: taken as 0..{count - 1}, classes named by their number")
    return found, tuple(map(str, values))


def _integers(labels, name, notes):
    if labels.dtype.kind == "f":
        _refuse(~np.isfinite(labels) | (labels != np.round(labels)), labels, name, "are not whole")
        notes.append(f"{name} are {labels.dtype}, all of them whole: taken as integers")
        _refuse(np.abs(labels) >= 2**62, labels, name, "are too large")
    elif labels.dtype.kind == "u":
        _refuse(labels >= 2**62, labels, name, "are too large")
    return labels.astype(np.int64)


def _of_text(all_labels, given, number, notes):
    texts = [_as_text(labels, name) for labels, name in all_labels]
    names = given or tuple(np.unique(texts[0]).tolist())
    if number is not None and not given:
        raise UserError(
            f"{all_labels[0][1]} are text: give class_names too, in the order of the prototypes"
        )
    order = np.argsort(names)
    ordered, numbers = np.asarray(names)[order], []
    for labels, (_, name) in zip(texts, all_labels, strict=True):
        places = np.minimum(np.searchsorted(ordered, labels), len(names) - 1)
        of = "the class names" if given else "the classes of labels"
        _refuse(ordered[places] != labels, labels, name, f"are not among {of}")
        numbers.append(order[places].astype(np.int32))
    if not given:
        notes.append(f"labels are text: {len(names)} classes, in the order of their names")
    return numbers, names


def _refuse(wrong: np.ndarray, labels: np.ndarray, name: str, what: str) -> None:
    rows: Sequence[int] = np.flatnonzero(wrong)
    if len(rows):
        raise UserError(
            f"{name}: {len(rows)} of {len(labels)} {what}, e.g. {labels[rows[0]]} in row {rows[0]}"
        )
