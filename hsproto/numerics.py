"""What losses and geometry share: directions, exact matrix products, rows that count, checks."""

import numbers

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def matmul(a, b):
    """`a @ b` in float32 at full precision.

    The defaults (bfloat16 passes on TPU, TF32 on recent GPUs) leave 3 digits of a cosine, and
    dividing by a temperature of 0.07 leaves 2.
    """
    return jnp.matmul(
        jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), precision=lax.Precision.HIGHEST
    )


def unit(x, axis=-1):
    """Direction of `x` along `axis`, in float32; the zero vector stays zero, with zero gradient.

    The vector is first divided by its largest entry, so lengths from 1e-30 to 1e+30 keep their
    direction. That factor is a constant to the gradient: the direction does not depend on it.
    """
    x = jnp.asarray(x, jnp.float32)
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0.0))
    nonzero = ~(largest <= 1e-35)  # true of NaN, which must show
    x = jnp.where(nonzero, x / jnp.where(nonzero, largest, 1.0), 0.0)
    squares = jnp.sum(x * x, axis=axis, keepdims=True)
    return x * lax.rsqrt(jnp.where(nonzero, squares, 1.0))


def row_mask(labels, num_classes, where=None):
    """Rows that count, bool [N]: `where`, and a label in 0..num_classes-1."""
    labels = jnp.asarray(labels, jnp.int32)  # uint8 would wrap when compared with 1000
    in_range = (labels >= 0) & (labels < num_classes)
    return in_range if where is None else in_range & where


def check_features(name, features, dims=None):
    """Raises ValueError unless `features` is a floating [rows, dims] array."""
    if jnp.ndim(features) != 2:
        raise ValueError(f"{name} must have shape [rows, dims]; got shape {jnp.shape(features)}")
    if not jnp.issubdtype(jnp.result_type(features), jnp.floating):
        raise ValueError(f"{name} must be floating point; got {jnp.result_type(features)}")
    if dims is not None and jnp.shape(features)[1] != dims:
        raise ValueError(f"{name} must have {dims} columns; got shape {jnp.shape(features)}")


def check_rows(features, labels, where=None):
    """Raises ValueError unless `labels` (integers) and `where` (bool) go with `features`' rows."""
    rows = jnp.shape(features)[0]
    if jnp.shape(labels) != (rows,):
        raise ValueError(f"labels must have shape ({rows},); got shape {jnp.shape(labels)}")
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(f"labels must be integers in 0..K-1; got {jnp.result_type(labels)}")
    if where is None:
        return
    if jnp.shape(where) != (rows,):
        raise ValueError(f"where must have shape ({rows},); got shape {jnp.shape(where)}")
    if jnp.result_type(where) != jnp.bool_:
        raise ValueError(f"where must be bool; got {jnp.result_type(where)}")


def check_positive(name, value):
    """Raises ValueError where a Python or NumPy number is not positive and finite."""
    if isinstance(value, numbers.Number | np.ndarray | np.generic):
        if np.ndim(value) != 0 or not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive finite number; got {value}")
    elif isinstance(value, jax.Array) and jnp.ndim(value) != 0:
        raise ValueError(f"{name} must be a scalar; got shape {jnp.shape(value)}")


def check_classes(num_classes):
    """Raises ValueError unless `num_classes` is a Python integer of at least 1."""
    if not isinstance(num_classes, numbers.Integral) or num_classes < 1:
        raise ValueError(f"num_classes must be an integer of at least 1; got {num_classes!r}")
