"""The result of a loss: a value and a validity per anchor."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from hsproto.core import numerics
from hsproto.core.meshes import AxisName


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PerAnchor:
    """Loss of each anchor: a pytree that unpacks into its two fields, ``values, valid = loss``.

    It is not an array: arithmetic, comparison and conversion raise TypeError, since a plain mean
    or sum of `values` would count anchors without a loss. Python's own ``sum(loss)`` goes over the
    two fields as unpacking does, so it cannot be refused: it adds up `values` and `valid`.

    Attributes:
        values: floating [B], 0 where not `valid`.
        valid: bool [B], the anchors for which the loss is defined.
    """

    values: jax.Array
    valid: jax.Array

    def mean(
        self, axis_name: AxisName | None = None, *, weights: ArrayLike | None = None
    ) -> jax.Array:
        """Return the mean, or weighted mean, over valid anchors.

        With weights, that is::

            Σ_{i valid} weights_i values_i / Σ_{i valid} weights_i

        Args:
            axis_name: Mapped axis (or axes) of the batch; the mean is then over the anchors of all
                devices. None: over the anchors of this call.
            weights: Nonnegative [B], one weight per anchor, which counts if the anchor is valid.
                None: all anchors weigh the same.

        Returns:
            Floating scalar; 0 if no anchor is valid or all weights are 0.

        Raises:
            ValueError: `weights` has another shape, or is a NumPy array or list with a negative
                weight.

        Example:
            >>> import jax.numpy as jnp
            >>> from hsproto import losses
            >>> loss = losses.PerAnchor(jnp.array([1.0, 3.0, 0.0]), jnp.array([True, True, False]))
            >>> float(loss.mean())
            2.0
            >>> float(loss.mean(weights=jnp.array([1.0, 3.0, 5.0])))
            2.5
        """
        if weights is None:
            total, count = jnp.sum(self.values), jnp.sum(self.valid, dtype=self.values.dtype)
        else:
            weights = numerics.as_array("weights", weights)
            if weights.shape != self.values.shape:
                raise ValueError(
                    f"weights must have shape {self.values.shape}; got shape {weights.shape}"
                )
            if not isinstance(weights, jax.Array) and np.any(weights < 0):
                raise ValueError(f"weights must not be negative; got {weights}")
            weights = jnp.where(self.valid, jnp.asarray(weights, self.values.dtype), 0.0)
            total, count = jnp.sum(weights * self.values), jnp.sum(weights)
        if axis_name is not None:
            total, count = lax.psum((total, count), axis_name)
        if weights is None:
            return total / jnp.maximum(count, 1.0)
        return total / jnp.where(count == 0, 1.0, count)

    def __iter__(self) -> Iterator[jax.Array]:
        return iter((self.values, self.valid))

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("PerAnchor is not an array: use .values or .mean(weights=...)")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __matmul__ = __rmatmul__ = (
        _refuse
    )
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refuse
    __pow__ = __rpow__ = __neg__ = __pos__ = __abs__ = __round__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __getitem__ = _refuse
    __hash__ = object.__hash__
    __bool__ = __int__ = __float__ = __complex__ = __index__ = _refuse
    __array__ = __array_ufunc__ = _refuse
    # JAX asks for it and has a message of its own for what has it: the question is refused, so that
    # jax.grad of a loss without .mean() says what is missing.
    __jax_array__ = property(_refuse)


def per_anchor(values: jax.Array, valid: jax.Array) -> PerAnchor:
    """`PerAnchor` with zeros where not valid, whatever `values` hold there."""
    return PerAnchor(jnp.where(valid, values, 0.0), valid)
