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


def l2_normalize(x, where=None):
    """Direction of `x` along its last axis, in float32; the zero vector stays zero.

    Lengths from 1e-30 to 1e+30 keep their direction. Rows outside `where` (bool, one axis less)
    become zero whatever they hold; any other row that is not finite becomes NaN. The gradient of
    what is zero here is zero.
    """
    return _direction(jnp.asarray(x, jnp.float32), where)


@jax.custom_jvp
def _direction(x, where):
    return _over(x, _length(x, where))


@_direction.defjvp
def _direction_jvp(primals, tangents):
    # du = (1 - u u') dx/|x|. By hand, since the derivatives of the three sums of a length would be
    # as many more passes over x.
    length = _length(*primals)
    direction, change = _over(primals[0], length), _over(tangents[0], length)
    return direction, change - direction * jnp.sum(direction * change, axis=-1, keepdims=True)


@jax.custom_jvp
def _length(x, where):
    """Length along the last axis, which stays; infinite for zero rows and those outside `where`."""

    def squares(scale):
        return jnp.sum((x * scale) * (x * scale), axis=-1, keepdims=True)

    # Squares leave float32's range long before lengths do. Three sums read x and write nothing of
    # its size; dividing by the largest entry first would write one more array.
    of_large, plain, of_small = squares(1e-20), squares(1.0), squares(1e20)
    length = jnp.where(plain < 1e-25, 1e-20 * jnp.sqrt(of_small), jnp.sqrt(plain))
    length = jnp.where(plain > 1e30, 1e20 * jnp.sqrt(of_large), length)
    length = jnp.where(jnp.isfinite(of_large), length, jnp.nan)
    zero = of_small < 1e-30
    if where is not None:
        zero = zero | ~jnp.asarray(where)[..., None]
    return jnp.where(zero, jnp.inf, length)


@_length.defjvp
def _length_jvp(primals, tangents):
    # d|x| = u·dx. Second derivatives of a direction come here.
    length = _length(*primals)
    return length, jnp.sum(_over(primals[0], length) * tangents[0], axis=-1, keepdims=True)


@jax.custom_jvp
def _over(x, length):
    return jnp.where(length == jnp.inf, 0.0, x / length)


@_over.defjvp
def _over_jvp(primals, tangents):
    # By hand, as 1/length² of a small length would overflow.
    quotient = _over(*primals)
    return quotient, _over(tangents[0] - quotient * tangents[1], primals[1])


def class_ids(labels, num_classes=None):
    """Labels as int32; -1 where they are not in 0..num_classes-1 (None: not in int32's range)."""
    num_classes = 2**31 - 1 if num_classes is None else num_classes
    # Compared before the cast, which wraps.
    xp = jnp if isinstance(labels, jax.Array) else np
    labels = xp.asarray(labels)
    outside = labels < 0
    if num_classes <= np.iinfo(labels.dtype).max:
        outside = outside | (labels >= num_classes)
    return jnp.where(outside, jnp.int32(-1), labels.astype(np.int32))


def row_mask(labels, num_classes, where=None):
    """Rows that count, bool [N]: `where`, and an int32 label in 0..num_classes-1."""
    in_range = (labels >= 0) & (labels < num_classes)
    return in_range if where is None else in_range & where


def check_features(name, features, dims=None):
    """Raises ValueError unless `features` is a floating [rows, dims] array."""
    _check_array(name, features)
    if jnp.ndim(features) != 2:
        raise ValueError(f"{name} must have shape [rows, dims]; got shape {jnp.shape(features)}")
    if not jnp.issubdtype(jnp.result_type(features), jnp.floating):
        raise ValueError(f"{name} must be floating point; got {jnp.result_type(features)}")
    if dims is not None and jnp.shape(features)[1] != dims:
        raise ValueError(f"{name} must have {dims} columns; got shape {jnp.shape(features)}")


def check_rows(features, labels, where=None):
    """Raises ValueError unless `labels` (integers) and `where` (bool) go with `features`' rows."""
    rows = jnp.shape(features)[0]
    _check_array("labels", labels)
    if jnp.shape(labels) != (rows,):
        raise ValueError(f"labels must have shape ({rows},); got shape {jnp.shape(labels)}")
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(f"labels must be integers in 0..K-1; got {jnp.result_type(labels)}")
    if where is None:
        return
    _check_array("where", where)
    if jnp.shape(where) != (rows,):
        raise ValueError(f"where must have shape ({rows},); got shape {jnp.shape(where)}")
    if jnp.result_type(where) != jnp.bool_:
        raise ValueError(f"where must be bool; got {jnp.result_type(where)}")


def check_positive(name, value):
    """`value` as a float32 scalar.

    Raises ValueError for what is no real scalar, and for a Python or NumPy number that is not
    positive and finite.
    """
    if isinstance(value, bool):
        raise ValueError(f"{name} must be a positive finite number; got {value}")
    if isinstance(value, jax.Array):
        if jnp.ndim(value) != 0 or not jnp.isrealobj(value):
            raise ValueError(
                f"{name} must be a real scalar; got {value.dtype} of shape {value.shape}"
            )
    elif not isinstance(value, numbers.Real | np.ndarray) or np.ndim(value) != 0:
        raise ValueError(f"{name} must be a positive finite number; got {value!r}")
    elif not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive finite number; got {value}")
    return jnp.asarray(value, jnp.float32)


def check_classes(num_classes):
    """Raises ValueError unless `num_classes` is a Python integer of at least 1."""
    if not is_integer(num_classes) or num_classes < 1:
        raise ValueError(f"num_classes must be an integer of at least 1; got {num_classes!r}")


def is_integer(value):
    """Whether `value` is a Python or NumPy integer; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _check_array(name, value):
    if not isinstance(value, jax.Array | np.ndarray | np.generic):
        raise ValueError(f"{name} must be an array; got {type(value).__name__}")


def cosines(features, others):
    """Cosines [N, M] of rows [N, D] with rows [M, D]; 0 with a row of length zero."""
    return matmul(l2_normalize(features), l2_normalize(others).T)
