"""The digits that come with scikit-learn, read without its import, which takes most of a second."""

import gzip
import importlib.util
import pathlib

import numpy as np

from hsproto.data.arrays import array_source
from hsproto.data.source import DataSpec, Splits
from hsproto.errors import UserError

_FILE = "datasets/data/digits.csv.gz"
_IMAGES = 1797
# A bit for each image: those of the test set, as scikit-learn's `train_test_split(range(1797),
# test_size=360, stratify=labels, random_state=0)` draws them.
_TEST = (
    "000004883524104000064100934205001a00080100240028062c12001000940a009019120420f8a0028110a000"
    "080a8820441524494240a00a0000004004d80000818020004805c400104008a0100005404800301000020ec409"
    "000224840083a8013c20a6980a0000000b08400804a0184802024041c1008004404684376a8102160044800040"
    "42a0a4180a5000840b8561c608108008004c80c02004068e00010882008100380803c008190000100e01008410"
    "a0210033282904c044c080680e0102830082008822a6402c24042108a860809081a00c02820242120138a41500"
)


def load_digits(spec: DataSpec) -> Splits:
    """Read scikit-learn's 1,797 handwritten digits, 8x8, gray, in memory.

    Their 17 gray levels are scaled to 0..255. scikit-learn gives no split, so 360 images (20 %,
    stratified) were drawn once as the test set; the other 1,437 are the training set, whatever the
    seed of the run is.

    Raises:
        UserError: `spec` calls them by another data set's name, or says where they are.
        ModuleNotFoundError: scikit-learn is not installed.
    """
    if spec.dataset != "digits":
        raise UserError(
            f"config key dataset={spec.dataset!r} with source='digits': that source holds "
            "scikit-learn's digits alone. Use dataset=digits, or source=arrays, folder or tfds"
        )
    if spec.data_dir:
        raise UserError(
            f"config key data_dir={spec.data_dir} with source='digits', which come with "
            "scikit-learn: leave it out, or use source=arrays, folder or tfds"
        )
    images, labels = _read()
    is_test = np.unpackbits(np.frombuffer(bytes.fromhex(_TEST), np.uint8))[:_IMAGES].astype(bool)
    names = [str(digit) for digit in range(10)]
    train, test = (
        array_source(images[rows], labels[rows], names, "digits", spec)
        for rows in (~is_test, is_test)
    )
    return Splits(train, test)


def _read():
    """Images uint8 [1797, 8, 8] and labels [1797], of scikit-learn's own file."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    path = pathlib.Path(package.submodule_search_locations[0]) / _FILE
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",")  # 64 levels in 0..16, and the label
    levels, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
    return np.round(levels * (255 / 16)).astype(np.uint8), labels
