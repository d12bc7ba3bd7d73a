"""Which images are in step t: a pure function of the seed and the step.

A run therefore resumes at any step without a saved iterator, and any number of processes draws the
same batches. An epoch is as many images as the training set has: num_examples / batch_size steps.
"""

import functools
from typing import Any, Protocol

import numpy as np

from hsproto.data import subsets
from hsproto.data.source import Source
from hsproto.errors import UserError


class IndexSampler(Protocol):
    """Draws batches of `batch_size` rows of a data set."""

    batch_size: int

    def indices(self, step: int) -> np.ndarray:
        """Return the rows in the batch of a step, int64 [batch_size]."""


def make(source: Source, config: Any) -> IndexSampler:
    """Return the sampler of `config` for a source.

    Its keys are sampler, images_per_class, batch_binding, batch_size and seed.

    Raises:
        UserError: the batch is too small for the bound examples and others, or holds too large a
            part of the classes.
    """
    labels = None
    if config.sampler == "classes" or config.batch_binding:
        labels = np.asarray(source.labels)
    bound = _one_of_each_class(labels, config.seed) if config.batch_binding else ()
    num_drawn = config.batch_size - len(bound)
    if num_drawn < 1:
        raise UserError(
            f"batch_binding=true puts one image of each of {len(bound)} classes into every batch: "
            f"batch_size={config.batch_size} must be larger"
        )
    if config.images_per_class:
        sampler = GroupSampler(labels, num_drawn, config.images_per_class, config.seed)
    elif config.sampler == "classes":
        sampler = ClassSampler(labels, num_drawn, config.seed)
    else:
        sampler = Sampler(len(source), num_drawn, config.seed)
    return BoundSampler(bound, sampler) if config.batch_binding else sampler


class Sampler:
    """Shuffled epochs.

    The order is an endless sequence of random permutations of the set, each drawn from (seed,
    epoch); step t takes its positions t·B..(t+1)·B-1. Every image is seen exactly once per epoch,
    and a batch may span two epochs.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int):
        self.num_examples, self.batch_size, self.seed = num_examples, batch_size, seed

    def indices(self, step: int) -> np.ndarray:
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, offsets = np.divmod(positions, self.num_examples)
        rows = np.empty_like(positions)
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            rows[here] = _permutation(self.num_examples, self.seed, epoch)[offsets[here]]
        return rows


class ClassSampler:
    """Batches that cover the classes, every class equally often, whatever its size.

    The order is an endless sequence of rounds, each of which holds every one of the K classes that
    have images once; step t takes its positions t·B..(t+1)·B-1, in a random order. With B >= K
    every batch holds every class, floor(B/K) or ceil(B/K) times. With B < K each class comes once
    in K positions, and rounds are shuffled, so that different classes meet each time. Each class
    goes through its own images in shuffled passes, all of them before any is repeated. On balanced
    sets an epoch sees each image about once; on others small classes are repeated.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, seed: int):
        self.batch_size, self.seed = batch_size, seed
        self._classes, self._members = zip(*subsets.rows_by_class(labels), strict=True)
        self._passes: dict[int, tuple[int, np.ndarray]] = {}

    def indices(self, step: int) -> np.ndarray:
        num_classes = len(self._classes)
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        rounds, places = np.divmod(positions, num_classes)
        if self.batch_size < num_classes:
            for number in range(rounds[0], rounds[-1] + 1):
                here = rounds == number
                places[here] = self._generator(1, number).permutation(num_classes)[places[here]]
        # Class c occurs for the r-th time in round r.
        rows = np.array([self._image(c, r) for c, r in zip(places, rounds, strict=True)], np.int64)
        return self._generator(2, step).permutation(rows)

    def _image(self, place, occurrence):
        members = self._members[place]
        number, offset = divmod(occurrence, len(members))
        if place not in self._passes or self._passes[place][0] != number:
            order = self._generator(3, self._classes[place], number).permutation(len(members))
            self._passes[place] = number, order
        return members[self._passes[place][1][offset]]

    def _generator(self, *key):
        return _generator(self.seed, *key)


class GroupSampler:
    """Batches of P classes with n images of each, for sets of many classes: P·n rows.

    The order of classes is an endless sequence of rounds, random permutations that hold every class
    with images once; step t takes the classes t·P..(t+1)·P-1. Where two rounds meet in a batch, the
    second one begins with other classes than those that end the first, so that the P classes are
    always different. In its r-th round a class gives the images r·n..(r+1)·n-1 of its own shuffled
    passes: all of them come before any is repeated, except that a class of fewer than n images
    gives some twice. Rows of a batch are in a random order.

    Raises:
        UserError: P is more than half of the classes.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, images_per_class: int, seed: int):
        self.batch_size, self.seed = batch_size, seed
        self._images, self._groups = images_per_class, batch_size // images_per_class
        self._rows = np.argsort(labels, kind="stable")
        self._classes, self._starts = np.unique(labels[self._rows], return_index=True)
        self._sizes = np.diff(np.append(self._starts, len(labels)))
        if 2 * self._groups > len(self._classes):
            raise UserError(
                f"batch_size={batch_size} and images_per_class={images_per_class} put "
                f"{self._groups} classes into a batch, of {len(self._classes)} with images: use "
                "at most half of them, or images_per_class=0 for batches of every class"
            )
        self._round = functools.lru_cache(maxsize=4)(self._draw_round)

    def indices(self, step: int) -> np.ndarray:
        positions = np.arange(step * self._groups, (step + 1) * self._groups)
        rounds, places = np.divmod(positions, len(self._classes))
        groups = [
            self._of_class(self._round(number)[place], number)
            for number, place in zip(rounds.tolist(), places.tolist(), strict=True)
        ]
        return _generator(self.seed, 2, step).permutation(np.concatenate(groups))

    def _draw_round(self, number):
        order = self._permutation(number)
        # Places that are in a batch with the end of the round before.
        shared = -number * len(self._classes) % self._groups
        if number and shared:
            before = self._permutation(number - 1)[shared - self._groups :]
            last = -(number + 1) * len(self._classes) % self._groups
            end = len(order) - (self._groups - last) % self._groups
            # The end of a round stays as it is, since the next one is drawn from it.
            taken = np.isin(order[:end], before)
            wrong = np.flatnonzero(taken[:shared])
            free = shared + np.flatnonzero(~taken[shared:])[: len(wrong)]
            order[wrong], order[free] = order[free], order[wrong]
        return order

    def _permutation(self, number):
        return _generator(self.seed, 1, number).permutation(len(self._classes))

    def _of_class(self, place, number):
        """The rows that a class gives in a round, from its shuffled passes."""
        size, label = self._sizes[place], self._classes[place]
        positions = np.arange(number * self._images, (number + 1) * self._images)
        passes, offsets = np.divmod(positions, size)
        orders = {
            each: _generator(self.seed, 3, label, each).permutation(size)
            for each in np.unique(passes).tolist()
        }
        chosen = [
            orders[each][offset] for each, offset in zip(passes.tolist(), offsets, strict=True)
        ]
        return self._rows[self._starts[place] + np.array(chosen, np.int64)]


class BoundSampler:
    """Batch binding: one fixed image per class leads every batch, those of `sampler` follow.

    Kini et al. 2023, "Engineering the Neural Collapse Geometry of Supervised-Contrastive Loss".
    """

    def __init__(self, bound: np.ndarray | list[int], sampler: IndexSampler):
        self.bound, self.sampler = np.asarray(bound, np.int64), sampler
        self.batch_size = len(self.bound) + sampler.batch_size

    def indices(self, step: int) -> np.ndarray:
        return np.concatenate([self.bound, self.sampler.indices(step)])


def _one_of_each_class(labels, seed):
    generator = _generator(seed, 0)
    return [generator.choice(rows) for _, rows in subsets.rows_by_class(labels)]


@functools.lru_cache(maxsize=4)
def _permutation(num_examples, seed, epoch):
    order = _generator(seed, epoch).permutation(num_examples)
    order.flags.writeable = False
    return order


def _generator(*key):
    # The bit generator is named because NumPy may change its default one.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([int(x) for x in key])))
