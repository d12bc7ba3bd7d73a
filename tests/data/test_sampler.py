"""Which images are in a step: every one once an epoch, every class in every batch, one seed."""

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsproto import config as config_lib
from hsproto import config_checks
from hsproto.data import sampler
from hsproto.errors import UserError

sizes = st.tuples(st.integers(1, 60), st.integers(1, 40), st.integers(0, 2**32))


@settings(deadline=None, max_examples=50)
@given(sizes)
def test_every_epoch_holds_each_image_exactly_once(size):
    num_examples, batch_size, seed = size
    shuffled = sampler.Sampler(num_examples, batch_size, seed)
    steps = -(-3 * num_examples // batch_size)
    sequence = np.concatenate([shuffled.indices(step) for step in range(steps)])
    assert sequence.dtype == np.int64
    for epoch in range(3):
        part = sequence[epoch * num_examples : (epoch + 1) * num_examples]
        np.testing.assert_array_equal(np.sort(part), np.arange(num_examples))


@settings(deadline=None, max_examples=50)
@given(sizes, st.integers(0, 10**9))
def test_a_step_depends_on_seed_and_step_alone(size, step):
    shuffled = sampler.Sampler(*size)
    before = shuffled.indices(step)
    shuffled.indices(step // 2)
    np.testing.assert_array_equal(shuffled.indices(step), before)
    sampler._permutation.cache_clear()
    np.testing.assert_array_equal(sampler.Sampler(*size).indices(step), before)


def test_epochs_and_seeds_have_their_own_orders():
    def order(seed, epoch):
        return tuple(sampler.Sampler(50, 50, seed).indices(epoch))

    orders = {order(seed, epoch) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25 and tuple(range(50)) not in orders


def test_permutations_do_not_change_between_versions():
    np.testing.assert_array_equal(
        sampler.Sampler(10, 10, 42).indices(3), [4, 3, 7, 2, 5, 1, 9, 8, 0, 6]
    )


class_counts = st.lists(st.integers(1, 12), min_size=1, max_size=9)


def labels_of(counts, seed=0):
    labels = np.repeat(np.arange(len(counts)) * 3, counts)  # class numbers need not be dense
    return np.random.default_rng(seed).permutation(labels)


@settings(deadline=None, max_examples=50)
@given(class_counts, st.integers(1, 30), st.integers(0, 99), st.integers(0, 10**6))
def test_batches_that_can_hold_every_class_do(counts, batch_size, seed, step):
    labels = labels_of(counts)
    rows = sampler.ClassSampler(labels, batch_size, seed).indices(step)
    assert rows.shape == (batch_size,) and rows.dtype == np.int64
    found = np.unique(labels[rows], return_counts=True)[1]
    if batch_size >= len(counts):
        assert len(found) == len(counts) and found.max() - found.min() <= 1


@settings(deadline=None, max_examples=50)
@given(class_counts, st.integers(1, 8), st.integers(0, 99))
def test_smaller_batches_meet_every_class_once_a_round(counts, batch_size, seed):
    labels, classes = labels_of(counts), len(counts)
    covering = sampler.ClassSampler(labels, batch_size, seed)
    steps = range(-(-4 * classes // batch_size))
    batches = [covering.indices(step) for step in steps]
    seen = np.bincount(labels[np.concatenate(batches)] // 3, minlength=classes)
    assert seen.max() - seen.min() <= 1


@settings(deadline=None, max_examples=50)
@given(class_counts, st.integers(1, 30), st.integers(0, 99))
def test_a_class_shows_all_its_images_before_one_comes_again(counts, batch_size, seed):
    labels = labels_of(counts)
    covering = sampler.ClassSampler(labels, batch_size, seed)
    steps = -(-2 * len(counts) * max(counts) // batch_size)
    rows = np.concatenate([covering.indices(step) for step in range(steps)])
    for label, count in enumerate(counts):
        times = np.bincount(rows[labels[rows] == 3 * label], minlength=len(labels))
        times = times[labels == 3 * label]
        assert times.sum() >= count and times.max() - times.min() <= 2 - (times.sum() % count == 0)


@settings(deadline=None, max_examples=25)
@given(class_counts, st.integers(1, 30), st.integers(0, 99), st.integers(0, 10**6))
def test_a_class_covering_step_depends_on_seed_and_step_alone(counts, batch_size, seed, step):
    covering = sampler.ClassSampler(labels_of(counts), batch_size, seed)
    before = covering.indices(step)
    covering.indices(step // 2)
    np.testing.assert_array_equal(covering.indices(step), before)
    again = sampler.ClassSampler(labels_of(counts), batch_size, seed)
    np.testing.assert_array_equal(again.indices(step), before)


def test_other_classes_meet_in_each_round_of_small_batches():
    labels = np.repeat(np.arange(8), 5)
    covering = sampler.ClassSampler(labels, 4, seed=1)
    together = {frozenset(labels[covering.indices(step)]) for step in range(10)}
    assert len(together) > 5


def config_of(**changes):
    config = config_lib.default()
    config.update({"batch_size": 16, "seed": 5, **changes})
    return config


class Labelled(types.SimpleNamespace):
    def __len__(self):
        return len(self.labels)


@pytest.mark.parametrize("order", ["shuffle", "classes"])
def test_batch_binding_leads_every_batch_with_the_same_image_of_each_class(order):
    source = Labelled(labels=labels_of([3, 9, 4, 7]))
    bound = sampler.make(source, config_of(sampler=order, batch_binding=True))
    batches = [bound.indices(step) for step in range(4)]
    assert all(len(batch) == 16 for batch in batches)
    assert {tuple(batch[:4]) for batch in batches} == {tuple(batches[0][:4])}
    np.testing.assert_array_equal(source.labels[batches[0][:4]], [0, 3, 6, 9])
    assert not np.array_equal(batches[0][4:], batches[1][4:])
    with pytest.raises(UserError, match="batch_size=4 must be larger"):
        sampler.make(source, config_of(batch_size=4, batch_binding=True))


def test_the_config_names_the_sampler():
    source = Labelled(labels=labels_of([5, 5]))
    assert isinstance(sampler.make(source, config_of()), sampler.Sampler)
    assert isinstance(sampler.make(source, config_of(sampler="classes")), sampler.ClassSampler)


grouped = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 12), st.integers(0, 99))


@settings(deadline=None, max_examples=50)
@given(grouped, st.integers(0, 10**6))
def test_batches_of_groups_hold_so_many_classes_with_so_many_images_each(sizes, step):
    groups, images, more, seed = sizes
    labels = labels_of(np.random.default_rng(seed).integers(1, 9, 2 * groups + more))
    drawn = sampler.GroupSampler(labels, groups * images, images, seed)
    rows = drawn.indices(step)
    assert rows.dtype == np.int64 and rows.shape == (groups * images,)
    classes, counts = np.unique(labels[rows], return_counts=True)
    assert len(classes) == groups and np.all(counts == images)
    again = sampler.GroupSampler(labels, groups * images, images, seed)
    np.testing.assert_array_equal(again.indices(step), rows)


@settings(deadline=None, max_examples=50)
@given(grouped)
def test_groups_meet_every_class_once_a_round_and_every_image_once_a_pass(sizes):
    groups, images, more, seed = sizes
    classes, rounds = 2 * groups + more, 6
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), images * 3))
    drawn = sampler.GroupSampler(labels, groups * images, images, seed)
    steps = -(-rounds * classes // groups)
    rows = np.concatenate([drawn.indices(step) for step in range(steps)])
    orders = [drawn._round(number) for number in range(rounds)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(classes))
    # Three rounds are a pass: six show each image twice, and what the last batch holds beyond.
    counts = np.bincount(rows, minlength=len(labels))
    assert counts.min() >= 2 and counts.sum() - 2 * len(labels) < groups * images


def test_groups_of_more_than_half_of_the_classes_are_refused():
    with pytest.raises(UserError, match="put 3 classes into a batch, of 5 with images"):
        sampler.GroupSampler(np.arange(5), 6, 2, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampler": "shuffle"}, "needs sampler='classes'"),
        ({"sampler": "classes", "batch_binding": True}, "needs .* batch_binding=false"),
        ({"sampler": "classes", "batch_size": 510}, "must divide batch_size=510"),
    ],
)
def test_what_images_per_class_needs_is_said(values, message):
    config = config_lib.default()
    config.update({"images_per_class": 4, **values})
    with pytest.raises(UserError, match=f"images_per_class=4 {message}"):
        config_checks.validate(config)


def test_images_per_class_makes_groups():
    config = config_lib.default()
    config.update({"sampler": "classes", "images_per_class": 2, "batch_size": 8})
    source = types.SimpleNamespace(labels=np.arange(40) % 10)
    rows = sampler.make(source, config).indices(5)
    assert np.all(np.unique(source.labels[rows], return_counts=True)[1] == 2)
