"""Measures of geometry as objectives: which have a gradient, and which say that they have none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsproto import geometry

LABELS = np.arange(24, dtype=np.int32) % 3
FEATURES = jnp.asarray(np.random.default_rng(0).normal(size=(24, 5)), jnp.float32)


def measure(key):
    return lambda features: geometry.neural_collapse(features, LABELS, num_classes=3)[key]


def test_erank_intra_has_no_gradient_as_its_docstring_says():
    assert "``erank_intra`` has no gradient" in geometry.neural_collapse.__doc__
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(measure("erank_intra"))(FEATURES)


@pytest.mark.parametrize("key", ["nc1", "cdnv", "instance_alignment"])
def test_gradients_of_the_others_are_those_of_differences(key):
    slope = jax.grad(measure(key))(FEATURES)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=FEATURES.shape), jnp.float32)
    step = 3e-3
    ahead, behind = (measure(key)(FEATURES + h * direction) for h in (step, -step))
    np.testing.assert_allclose(jnp.vdot(slope, direction), (ahead - behind) / (2 * step), rtol=0.02)
