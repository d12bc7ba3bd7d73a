"""SGD and its schedules are the paper's."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hsproto.config import default, with_argument
from hsproto.training import optimizer


def rates(argument, steps_per_epoch, steps):
    rate = optimizer.learning_rate(with_argument(default(), argument), steps_per_epoch)
    return np.array([rate(step) for step in steps])


def test_rate_is_scaled_by_the_batch():
    (rate,) = rates("base_lr=0.1,batch_size=1024,epochs=10", 10, [0])
    assert rate == pytest.approx(0.4)
    (rate,) = rates("base_lr=0.1,batch_size=1024,epochs=10,lr_batch=0", 10, [0])
    assert rate == pytest.approx(0.1)


def test_cosine_goes_from_the_peak_to_a_thousandth_of_it():
    steps = np.arange(101)
    found = rates("base_lr=0.2,lr_batch=0,epochs=10", 10, steps)
    floor = 0.2 * 0.1**3
    expected = floor + 0.5 * (0.2 - floor) * (1 + np.cos(np.pi * steps / 100))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_warmup_is_linear_and_meets_the_cosine():
    argument = "base_lr=0.4,lr_batch=0,epochs=100,warmup_epochs=10,warmup_lr=0.01"
    found = rates(argument, 10, [0, 50, 99, 100, 500])
    plain = rates("base_lr=0.4,lr_batch=0,epochs=100", 10, [100, 500])
    assert found[0] == pytest.approx(0.01)
    assert found[1] == pytest.approx((0.01 + plain[0]) / 2)
    assert found[2] == pytest.approx(0.01 + 0.99 * (plain[0] - 0.01))
    np.testing.assert_allclose(found[3:], plain, rtol=1e-6)


def test_step_schedule_decays_at_each_epoch_named():
    argument = "base_lr=5,lr_batch=0,schedule=step,decay_epochs=60/75/90,epochs=100"
    found = rates(argument, 2, [0, 119, 120, 149, 150, 179, 180])
    np.testing.assert_allclose(found, [5, 5, 1, 1, 0.2, 0.2, 0.04], rtol=1e-5)


def test_sgd_is_pytorchs():
    config = with_argument(
        default(), "base_lr=0.1,lr_batch=0,epochs=1000000,weight_decay=0.01,momentum=0.9"
    )
    sgd = optimizer.sgd(config, 1)
    params = jnp.array([1.0, -2.0])
    state = sgd.init(params)
    expected, buffer = np.array([1.0, -2.0]), np.zeros(2)
    for gradient in (np.array([0.3, 0.1]), np.array([-0.2, 0.4]), np.array([0.0, 1.0])):
        updates, state = sgd.update(jnp.asarray(gradient, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        buffer = 0.9 * buffer + gradient + 0.01 * expected
        expected = expected - 0.1 * buffer
    np.testing.assert_allclose(params, expected, rtol=1e-6)
