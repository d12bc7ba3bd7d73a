"""Which images are in step t: a pure function of the seed and the step.

So a run resumes at a step without any saved iterator, and every number of processes draws the same
batches. An epoch is as many images as the training set has: num_examples / batch_size steps.
"""

import functools

import numpy as np

from hsproto.errors import UserError


def make(source, config):
    """The sampler of `config` (keys sampler, batch_binding, batch_size, seed) for a source.

    Raises UserError where the batch cannot hold the bound examples and others.
    """
    labels = None
    if config.sampler == "classes" or config.batch_binding:
        labels = np.asarray(source.labels)
    bound = _one_of_each_class(labels, config.seed) if config.batch_binding else ()
    drawn = config.batch_size - len(bound)
    if drawn < 1:
        raise UserError(
            f"batch_binding=true puts an image of each of {len(bound)} classes into every batch: "
            f"batch_size={config.batch_size} must be larger"
        )
    if config.sampler == "classes":
        sampler = ClassSampler(labels, drawn, config.seed)
    else:
        sampler = Sampler(len(source), drawn, config.seed)
    return BoundSampler(bound, sampler) if config.batch_binding else sampler


class Sampler:
    """Shuffled epochs: `indices(step)`, int64 [batch_size], the rows of the data set in a step.

    The order is an endless sequence of one random permutation of the set after another, each drawn
    from (seed, epoch); step t takes its positions t·B..(t+1)·B-1. Every image is seen exactly once
    an epoch, and a batch may span two epochs.
    """

    def __init__(self, num_examples, batch_size, seed):
        self.num_examples, self.batch_size, self.seed = num_examples, batch_size, seed

    def indices(self, step):
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, offsets = np.divmod(positions, self.num_examples)
        rows = np.empty_like(positions)
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            rows[here] = _permutation(self.num_examples, self.seed, epoch)[offsets[here]]
        return rows


class ClassSampler:
    """Batches that cover the classes: every class alike, whatever its size; `indices` as above.

    An endless sequence of rounds holds each of the K classes that have images once a round; step t
    takes its positions t·B..(t+1)·B-1, in a random order. With B >= K every batch holds every
    class, floor(B/K) or ceil(B/K) times. With B < K each class comes once in K positions, and
    rounds are shuffled, so that other classes meet each time. Each class goes through its own
    images in shuffled passes, all of them before any comes again. On balanced sets an epoch sees
    each image about once; on others small classes are repeated.
    """

    def __init__(self, labels, batch_size, seed):
        self.batch_size, self.seed = batch_size, seed
        order = np.argsort(labels, kind="stable")
        classes, starts = np.unique(labels[order], return_index=True)
        self._members = np.split(order, starts[1:])
        self._classes = classes
        self._passes = {}

    def indices(self, step):
        num_classes = len(self._classes)
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        rounds, places = np.divmod(positions, num_classes)
        if self.batch_size < num_classes:
            for number in range(rounds[0], rounds[-1] + 1):
                here = rounds == number
                places[here] = self._generator(1, number).permutation(num_classes)[places[here]]
        # Class c comes for the r-th time in round r.
        rows = np.array([self._image(c, r) for c, r in zip(places, rounds, strict=True)], np.int64)
        return self._generator(2, step).permutation(rows)

    def _image(self, place, occurrence):
        members = self._members[place]
        number, offset = divmod(occurrence, len(members))
        if self._passes.get(place, (None, None))[0] != number:
            order = self._generator(3, self._classes[place], number).permutation(len(members))
            self._passes[place] = number, order
        return members[self._passes[place][1][offset]]

    def _generator(self, *what):
        return _generator(self.seed, *what)


class BoundSampler:
    """Batch binding: a fixed image of each class leads every batch, those of `sampler` follow.

    Kini et al. 2023, "Engineering the Neural Collapse Geometry of Supervised-Contrastive Loss".
    """

    def __init__(self, bound, sampler):
        self.bound, self.sampler = np.asarray(bound, np.int64), sampler
        self.batch_size = len(self.bound) + sampler.batch_size

    def indices(self, step):
        return np.concatenate([self.bound, self.sampler.indices(step)])


def _one_of_each_class(labels, seed):
    generator = _generator(seed, 0)
    return [generator.choice(np.flatnonzero(labels == c)) for c in np.unique(labels)]


@functools.lru_cache(maxsize=4)
def _permutation(num_examples, seed, epoch):
    order = _generator(seed, epoch).permutation(num_examples)
    order.flags.writeable = False
    return order


def _generator(*what):
    # The bit generator is named because NumPy may change its default one.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([int(x) for x in what])))
