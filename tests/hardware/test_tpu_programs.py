"""What the TPU's own compiler makes of the training step; skipped where it is not installed."""

import importlib.util

import pytest
from small_runs import tiny_config

from hsproto.hardware import collectives, sizing, topologies

BATCH, WIDTH = 1024, 32  # the width is that of the features too
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@pytest.fixture(scope="module", params=["nonl", "ntce", "normface"])
def step(request):
    sizes = f"batch_size={BATCH},width={WIDTH}"
    config = tiny_config("digits", f"loss={request.param},embedding=pooled,{sizes}")
    return sizing.size(config, topologies.parse("v5e-8"), lambda line: None, fresh=True)


def exchanged(step, part):
    rows = [row for row in step["collectives"] if row["part"] == part]
    assert {row["kind"] for row in rows} == {"all-reduce"}, rows
    return sum(row["count"] for row in rows), sum(row["bytes"] for row in rows)


def test_the_gradients_are_summed_in_few_large_pieces(step):
    count, size = exchanged(step, collectives.GRADIENTS)
    assert count <= 2
    assert size >= 0.9 * step["memory"]["parameters"]


def test_each_batch_norm_sums_its_statistics_once_forward_and_once_backward(step):
    count, _ = exchanged(step, collectives.BATCH_NORM)
    assert count <= 2 * 4  # layers of the convnet


def test_the_loss_exchanges_less_than_gathering_features_would(step):
    _, size = exchanged(step, collectives.LOSS)
    assert size <= 3 * 4 * 10 + 4 * 4  # classes' sums and maxima, and scalars
    assert 500 * size <= 2 * 4 * BATCH * WIDTH  # features to all chips, their gradient back
    assert not [row for row in step["collectives"] if row["kind"] != "all-reduce"]


def test_the_loss_is_a_small_share_of_the_flops(step):
    assert step["loss_flops"] <= 0.03 * step["flops"]
