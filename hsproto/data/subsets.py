"""Parts of a source of images: some of its rows or classes, or other labels."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from hsproto.data.arrays import ArraySource
from hsproto.data.source import PictureSource, Source


def rows_by_class(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (class, its rows in ascending order) of the classes that have rows, in order.

    The time does not grow with the number of classes times that of rows.
    """
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(np.asarray(labels)[order], return_index=True)
    return zip(classes.tolist(), np.split(order, starts[1:]), strict=True)


def of_rows(source: Source, rows: np.ndarray) -> Source:
    """Return the rows `rows` of a source, in that order."""
    return _subset(source, rows, np.asarray(source.labels)[rows], source.class_names)


def of_classes(source: Source, names: Sequence[str]) -> Source:
    """Return the images of the classes `names`, labeled 0..len(names)-1 in that order.

    Every name must be a class of the source. Images keep their order.
    """
    places = {name: label for label, name in enumerate(source.class_names)}
    old_labels = [places[name] for name in names]
    new_labels = np.full(len(source.class_names), -1, np.int32)
    new_labels[old_labels] = np.arange(len(names))
    labels = new_labels[np.asarray(source.labels)]
    rows = np.flatnonzero(labels >= 0)
    return _subset(source, rows, labels[rows], tuple(names))


def relabeled(source: Source, labels: np.ndarray, class_names: Sequence[str]) -> Source:
    """Return all images of a source with other labels [N], which index `class_names`."""
    return _subset(source, np.arange(len(source)), labels, tuple(class_names))


def _subset(source, rows, labels, class_names):
    if isinstance(source, ArraySource):
        return ArraySource(source.images[rows], labels, class_names)
    kind = _PictureSubset if isinstance(source, PictureSource) else _Subset
    return kind(source, rows, labels, class_names)


class _Subset(Source):
    def __init__(self, source, rows, labels, class_names):
        self._source, self._rows = source, rows
        self.labels, self.class_names = labels, class_names

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self._source[int(self._rows[i])][0], int(self.labels[i])

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self._source.image_shape

    def check(self, rows: np.ndarray | None = None) -> None:
        ours = np.asarray(self._rows)
        self._source.check(ours if rows is None else ours[rows])

    def identity(self, rows: np.ndarray) -> Iterable[bytes]:
        return self._source.identity(np.asarray(self._rows)[rows])


class _PictureSubset(_Subset, PictureSource):
    def picture(self, i: int) -> tuple[Image.Image, int]:
        return self._source.picture(int(self._rows[i]))[0], int(self.labels[i])
