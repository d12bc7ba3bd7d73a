"""Training and evaluation under JAX's checks for NaN and for ranks that are promoted."""

import jax
import numpy as np
import pytest
from oracle_losses import NAMES, call, make
from small_runs import tiny_config

from hsproto import evaluate, losses, train
from hsproto.evaluation import calibration, probe, retrieval, transfer

BLURRED = "jitter=0.4/0.4/0.4/0.1,grayscale_probability=0.2,blur_probability=0.5"


@pytest.fixture(autouse=True)
def strict():
    with jax.debug_nans(True), jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "argument"),
    [
        ("digits", "loss=cross_entropy,head=linear,imbalance_factor=0.1"),
        ("digits", "loss=ntce,queue_size=128,queue_momentum=0.9"),
        ("digits", "loss=decoupled_normface,embedding=signed_bn,bn_groups=2,microbatches=2"),
        ("digits", "loss=dot_regression,balanced_lengths=true,imbalance_factor=0.3"),
        ("scl_digits", BLURRED),
    ],
)
def test_a_run_and_its_measurements(recipe, argument, tmp_path):
    train.train(tiny_config(recipe, f"{argument},epochs=2"), tmp_path / "run")
    workdir = f"--workdir={tmp_path / 'run'}"
    assert evaluate.main([workdir]) == 0
    if "cross_entropy" in argument or recipe == "scl_digits":
        assert probe.main([workdir, "--epochs=1", "--decay_epochs=0.5"]) == 0
        assert calibration.main([workdir]) == 0 and retrieval.main([workdir]) == 0
        digits = ["--source=digits", "--datasets=digits", "--penalties=2"]
        assert transfer.main([workdir, *digits]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["plain", "zero row", "masked", "one class"])
def test_losses_and_their_gradients(name, case):
    inputs = make(1, (9, 4, 5))
    if case == "zero row":
        features = np.array(inputs.features)
        features[0] = 0
        inputs = inputs._replace(features=features)
    if case == "masked":
        inputs = inputs._replace(where=np.zeros(9, bool))
    if case == "one class":
        inputs = inputs._replace(labels=np.zeros_like(inputs.labels))

    def mean(features):
        return call(losses, name, inputs._replace(features=features)).mean()

    found, slope = jax.jit(jax.value_and_grad(mean))(np.asarray(inputs.features))
    assert np.isfinite(found) and np.isfinite(slope).all()
