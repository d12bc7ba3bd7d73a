"""`jax.export` with a symbolic number of rows: one program for batches of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from oracle_losses import NAMES, call, make

from hsproto import losses, prototypes
from hsproto.core import class_stats

CLASSES, DIMS = 5, 6


def exported(function, *kinds):
    """The function, exported for rows of any number: `kinds` are (columns or None, dtype)."""
    (rows,) = export.symbolic_shape("rows")
    shapes = [
        jax.ShapeDtypeStruct((rows,) if columns is None else (rows, columns), dtype)
        for columns, dtype in kinds
    ]
    return export.export(jax.jit(function))(*shapes).call


ROWS = ((DIMS, jnp.float32), (None, jnp.int32), (None, jnp.bool_))
TEMPLATE = make(0, (3, CLASSES, DIMS), 0.2)
LOSSES = {
    name: lambda x, y, w, name=name: call(
        losses, name, TEMPLATE._replace(features=x, labels=y, where=w)
    )
    for name in NAMES
}
LOSSES |= {
    f"{name} in blocks": lambda x, y, w, name=name: getattr(losses, name)(
        x, TEMPLATE.prototypes, y, temperature=0.2, where=w, class_block=2
    )
    for name in ("normface", "decoupled_normface", "ntce", "nonl")
}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses(name):
    def both(x, y, w):
        def mean(x):
            values, valid = LOSSES[name](x, y, w)
            return losses.PerAnchor(values, valid).mean(), values

        (value, values), slope = jax.value_and_grad(mean, has_aux=True)(x)
        return value, values, slope

    any_rows = exported(both, *ROWS)
    for rows in (4, 17):
        inputs = make(rows, (rows, CLASSES, DIMS))
        batch = inputs.features, inputs.labels, inputs.where
        for got, right in zip(any_rows(*batch), both(*batch), strict=True):
            np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-5)


def test_nonl_with_soft_labels():
    def values(x, y):
        return losses.nonl(x, TEMPLATE.prototypes, y, temperature=0.2).values

    any_rows = exported(values, ROWS[0], (CLASSES, jnp.float32))
    for rows in (4, 17):
        features = make(rows, (rows, CLASSES, DIMS)).features
        soft = np.random.default_rng(0).dirichlet(np.ones(CLASSES), rows).astype(np.float32)
        np.testing.assert_allclose(any_rows(features, soft), values(features, soft), atol=1e-5)


def test_scl_in_blocks():
    def values(x, y, w):
        return losses.scl(x, y, temperature=0.2, where=w, block_size=4).values

    any_rows = exported(values, *ROWS)
    for rows in (3, 17):
        inputs = make(rows, (rows, CLASSES, DIMS))
        batch = inputs.features, inputs.labels, inputs.where
        np.testing.assert_allclose(any_rows(*batch), values(*batch), atol=1e-5)


FUNCTIONS = {
    "fit": lambda x, y, w: prototypes.fit(x, y, num_classes=CLASSES, where=w),
    "class_means": lambda x, y, w: class_stats.class_means(x, y, num_classes=CLASSES, where=w),
    "predict": lambda x, y, w: prototypes.predict(x, TEMPLATE.prototypes),
    "logits": lambda x, y, w: prototypes.logits(x, TEMPLATE.prototypes, temperature=0.2),
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_prototypes(name):
    any_rows = exported(FUNCTIONS[name], *ROWS)
    for rows in (4, 17):
        inputs = make(rows, (rows, CLASSES, DIMS))
        batch = inputs.features, inputs.labels, inputs.where
        right = FUNCTIONS[name](*batch)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), any_rows(*batch), right
        )
