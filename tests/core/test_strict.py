"""The library under JAX's strict settings and in 64-bit mode: nothing is promoted in silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle_losses import NAMES, call, make

from hsproto import geometry, losses, prototypes
from hsproto.core import class_stats, simplex, spectra


@pytest.fixture(params=[False, True], ids=["32-bit", "64-bit"], autouse=True)
def strict(request):
    with (
        jax.enable_x64(request.param),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield


def assert_short(tree):
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(tree)} <= {"float32", "bool", "int32"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_losses(name):
    inputs = jax.tree.map(jnp.asarray, make(1, (9, 4, 5)))
    inputs = inputs._replace(temperature=np.float64(0.1))

    def loss(features):
        found = call(losses, name, inputs._replace(features=features))
        return found.mean(), found

    assert_short(jax.value_and_grad(loss, has_aux=True)(inputs.features))


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_geometry_and_prototypes(jit):
    features = jnp.asarray(np.random.default_rng(0).normal(size=(24, 6)), jnp.float32)
    labels = jnp.arange(24, dtype=jnp.int32) % 4

    def everything(features, labels):
        fitted = prototypes.fit(features, labels, num_classes=4)
        bias = jnp.zeros(4, jnp.float32)
        return (
            geometry.neural_collapse(features, labels, fitted, num_classes=4, bias=bias),
            class_stats.class_means(features, labels, num_classes=4),
            spectra.effective_rank(features),
            simplex.simplex_etf(jax.random.key(0), 4, 6),
            prototypes.logits(features, fitted, temperature=np.float64(0.5)),
            prototypes.predict(features, fitted),
        )

    assert_short((jax.jit(everything) if jit else everything)(features, labels))
