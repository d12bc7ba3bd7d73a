"""Parts of a source of images: some of its rows or classes, or other labels."""

import numpy as np


def of_rows(source, rows):
    """The rows `rows` of a source, in that order, as a source."""
    return _subset(source, rows, np.asarray(source.labels)[rows], source.class_names)


def of_classes(source, names):
    """The images of the classes `names` of a source, labelled 0..len(names)-1 in their order.

    Every name must be a class of the source. Images keep their order.
    """
    places = [source.class_names.index(name) for name in names]
    number = np.full(len(source.class_names), -1, np.int32)
    number[places] = np.arange(len(names))
    labels = number[np.asarray(source.labels)]
    rows = np.flatnonzero(labels >= 0)
    return _subset(source, rows, labels[rows], tuple(names))


def relabelled(source, labels, class_names):
    """All images of a source, in order, with other labels [N], which index `class_names`."""
    return _subset(source, np.arange(len(source)), labels, class_names)


def _subset(source, rows, labels, class_names):
    kind = _PictureSubset if hasattr(source, "picture") else _Subset
    return kind(source, rows, labels, class_names)


class _Subset:
    def __init__(self, source, rows, labels, class_names):
        self._source, self._rows = source, rows
        self.labels, self.class_names = labels, class_names
        if hasattr(source, "images"):
            self.images = source.images[rows]

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, i):
        return self._source[int(self._rows[i])][0], int(self.labels[i])


class _PictureSubset(_Subset):
    def picture(self, i):
        return self._source.picture(int(self._rows[i]))[0], int(self.labels[i])

    def check(self):
        if hasattr(self._source, "check"):
            self._source.check()
