"""Shared by losses and geometry: directions, exact matrix products, row masks, checks."""

import functools
import numbers
import warnings
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike


def jax_array(value: Any) -> Any:
    """`value`, or the JAX array that it says it is, as `flax.nnx.Param` does."""
    if isinstance(value, jax.Array) or not hasattr(value, "__jax_array__"):
        return value
    return value.__jax_array__()


def float_dtype(*arrays: ArrayLike) -> Any:
    """Return the dtype to compute in: float64 if one of the arrays has it, or else float32."""
    wide = any(jnp.result_type(x) == jnp.float64 for x in arrays)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def matmul(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Return `a @ b` at full precision, in float64 if one of them is, or else in float32.

    The defaults (bfloat16 passes on TPU, TF32 on recent GPUs) leave 3 digits of a cosine, and
    dividing by a temperature of 0.07 leaves 2.
    """
    dtype = float_dtype(a, b)
    return jnp.matmul(jnp.asarray(a, dtype), jnp.asarray(b, dtype), precision=lax.Precision.HIGHEST)


def l2_normalize(x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
    """Return the direction of `x` along its last axis; the zero vector stays zero.

    It is float64 if `x` is, or else float32. Lengths from 1e-30 to 1e+30 keep their direction. Rows
    outside `where` (bool, one axis less) become zero whatever they hold; any other row that is not
    finite becomes NaN. The gradient of a row that is zero here is zero.
    """
    return _compiled_direction(jnp.asarray(x, float_dtype(x)), where)


# Decorates functions of arrays that are called outside of jit, too: one program there in place of
# one per operation, each of which would be compiled; within jit, part of the caller's program.
inlined = functools.partial(jax.jit, inline=True)


@jax.custom_jvp
def _direction(x: jax.Array, where: jax.Array | None) -> jax.Array:
    return _over(x, _length(x, where))


@_direction.defjvp
def _direction_jvp(primals, tangents):
    # du = (1 - u u') dx/|x|. By hand, since the derivatives of the three sums of a length would be
    # as many more passes over x.
    length = _length(*primals)
    direction, change = _over(primals[0], length), _over(tangents[0], length)
    return direction, change - direction * jnp.sum(direction * change, axis=-1, keepdims=True)


_compiled_direction = inlined(_direction)


@jax.custom_jvp
def unit_or_zero(x: jax.Array) -> jax.Array:
    """Return `unit(x)` of floats, whose zero rows have the gradient of a row of length 1.

    A row of learned prototypes that starts at zero then has a first step, and so a direction.
    """
    return _over(x, _length(x, None))


@unit_or_zero.defjvp
def _unit_or_zero_jvp(primals, tangents):
    length = _length(primals[0], None)
    direction, change = _over(primals[0], length), _over(tangents[0], length)
    change = jnp.where(length == jnp.inf, tangents[0], change)
    return direction, change - direction * jnp.sum(direction * change, axis=-1, keepdims=True)


@jax.custom_jvp
def _length(x: jax.Array, where: jax.Array | None) -> jax.Array:
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
def _over(x: jax.Array, length: jax.Array) -> jax.Array:
    return jnp.where(length == jnp.inf, 0.0, x / length)


@_over.defjvp
def _over_jvp(primals, tangents):
    # By hand, as 1/length² of a small length would overflow.
    quotient = _over(*primals)
    return quotient, _over(tangents[0] - quotient * tangents[1], primals[1])


def class_ids(
    labels: ArrayLike, num_classes: int | None = None, where: ArrayLike | None = None
) -> jax.Array:
    """Return labels as int32; -1 outside 0..num_classes-1 (None: outside the range of int32).

    Without `num_classes`, 64-bit labels (of JAX's 64-bit mode) keep their dtype. Labels on the host
    that are num_classes or more where `where` holds are warned of.
    """
    if isinstance(labels, jax.Array):
        return _class_ids_on_device(labels, num_classes)
    labels = np.asarray(labels)
    if num_classes is not None:
        _warn_beyond(labels, num_classes, where)
    # On the host: arrays of 64 bits wrap on their way to a device.
    return jnp.asarray(_class_ids(labels, num_classes, np))


def _warn_beyond(labels, num_classes, where):
    """Labels that count from 1 lose a class, which nothing else would tell."""
    counted = labels[where] if isinstance(where, np.ndarray) else labels
    if counted.size and counted.max() >= num_classes:
        warnings.warn(
            f"labels go up to {counted.max()}, and classes from 0 to {num_classes - 1}: rows with "
            "a label beyond do not count. Number classes from 0; mark rows that are not to count "
            "by -1 or by where",
            stacklevel=2,
        )


@functools.partial(inlined, static_argnums=1)
def _class_ids_on_device(labels, num_classes):
    return _class_ids(labels, num_classes, jnp)


def _class_ids(labels, num_classes, xp):
    if num_classes is None and jnp.result_type(labels) == jnp.int64:
        return xp.maximum(labels, -1)
    num_classes = 2**31 - 1 if num_classes is None else num_classes
    # Compared before the cast, which wraps.
    outside = labels < 0
    if num_classes <= np.iinfo(labels.dtype).max:
        outside = outside | (labels >= num_classes)
    return xp.where(outside, xp.int32(-1), labels.astype(np.int32))


def row_mask(labels: jax.Array, num_classes: int, where: ArrayLike | None = None) -> jax.Array:
    """Return the rows that count, bool [N]: `where`, and an int32 label in 0..num_classes-1."""
    in_range = (labels >= 0) & (labels < num_classes)
    return in_range if where is None else in_range & jnp.asarray(where)


def as_array(name: str, value: Any) -> jax.Array | np.ndarray:
    """Return `value` as a JAX or NumPy array, without a change of dtype.

    Accepted are arrays, numbers, (nested) lists of these, and objects that JAX or NumPy can read:
    with `__jax_array__`, `__array__` or `__dlpack__`, e.g. `flax.nnx.Param` and torch tensors.

    Raises:
        ValueError: `value` is none of these.
    """
    value = jax_array(value)
    if isinstance(value, jax.Array | np.ndarray):
        return value
    try:
        array = _read(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be an array or something that can be read as one; "
            f"got {type(value).__name__}: {error}"
        ) from error
    if not (jnp.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise ValueError(
            f"{name} must be an array or something that can be read as one; "
            f"got {type(value).__name__}"
        )
    return array


def _read(value: Any) -> jax.Array | np.ndarray:
    if isinstance(value, list | tuple):
        on_device = (isinstance(x, jax.Array) or hasattr(x, "__jax_array__") for x in value)
        return jnp.asarray(value) if any(on_device) else np.asarray(value)
    try:
        return np.asarray(value)
    except TypeError:
        # NumPy has no bfloat16 of its own, which torch's tensors may hold, and reads no GPU.
        if not hasattr(value, "__dlpack__"):
            raise
        return jnp.from_dlpack(value)


def check_features(
    name: str, features: ArrayLike, dims: int | None = None
) -> jax.Array | np.ndarray:
    """Return `features` as an array; raise ValueError unless it is floating [rows, dims]."""
    array = as_array(name, features)
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape [rows, dims]; got shape {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating point; got {array.dtype}")
    if dims is not None and array.shape[1] != dims:
        raise ValueError(f"{name} must have {dims} columns; got shape {array.shape}")
    return array


def check_labels(
    rows: int, labels: ArrayLike, num_classes: int | None = None
) -> jax.Array | np.ndarray:
    """Return `labels` as an array: integer [rows], or floating [rows, num_classes] soft labels.

    Raises:
        ValueError: `labels` are neither; without `num_classes`, they are soft.
    """
    array = as_array("labels", labels)
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    if floating and num_classes is not None and array.ndim == 2:
        if array.shape != (rows, num_classes):
            raise ValueError(
                f"soft labels must have shape ({rows}, {num_classes}); got shape {array.shape}"
            )
        return array
    if array.shape != (rows,) and array.shape != (rows, 1):
        raise ValueError(f"labels must have shape ({rows},); got shape {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        soft = "" if num_classes is None else f", or soft labels of shape ({rows}, {num_classes})"
        raise ValueError(f"labels must be integers in 0..K-1{soft}; got {array.dtype}")
    return array.reshape(rows)


def check_where(rows: int, where: ArrayLike | None) -> jax.Array | np.ndarray | None:
    """Return `where` as an array; raise ValueError unless it is None or bool [rows]."""
    if where is None:
        return None
    array = as_array("where", where)
    if array.shape != (rows,):
        raise ValueError(f"where must have shape ({rows},); got shape {array.shape}")
    if array.dtype != np.bool_:
        raise ValueError(f"where must be bool; got {array.dtype}")
    return array


def check_positive(name: str, value: ArrayLike, dtype: Any = jnp.float32) -> jax.Array:
    """Return `value`, a number or an array of one, as a scalar of `dtype`.

    Raises:
        ValueError: `value` is not a real scalar, or is a Python or NumPy number that is not
            positive and finite.
    """
    scalar: Any = jax_array(value)
    if isinstance(scalar, bool):
        raise ValueError(f"{name} must be a positive finite number; got {value}")
    if isinstance(scalar, jax.Array):
        if scalar.shape not in ((), (1,)) or not jnp.isrealobj(scalar):
            raise ValueError(
                f"{name} must be a real scalar; got {scalar.dtype} of shape {scalar.shape}"
            )
        return jnp.asarray(scalar, dtype).reshape(())
    if not isinstance(scalar, numbers.Real) and hasattr(scalar, "__array__"):
        scalar = np.asarray(scalar)
        real = scalar.shape in ((), (1,)) and scalar.dtype.kind not in "bcOSU"
        scalar = scalar.reshape(()).astype(float).item() if real else None
    if not isinstance(scalar, numbers.Real) or not 0 < float(scalar) < np.inf:
        raise ValueError(f"{name} must be a positive finite number; got {value!r}")
    return jnp.asarray(float(scalar), dtype)


def check_classes(num_classes: object) -> None:
    """Raise ValueError unless `num_classes` is a Python integer of at least 1."""
    if not is_integer(num_classes) or num_classes < 1:
        raise ValueError(f"num_classes must be an integer of at least 1; got {num_classes!r}")


def is_integer(value: object) -> TypeGuard[int]:
    """Return whether `value` is a Python or NumPy integer; True and False are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def cosines(features: ArrayLike, others: ArrayLike) -> jax.Array:
    """Return the cosines [N, M] of rows [N, D] with rows [M, D]; 0 for a row of length zero."""
    return matmul(l2_normalize(features), l2_normalize(others).T)
