"""L2-regularized logistic regression on fixed features by L-BFGS, over many strengths of penalty.

  minimize over W [K, D], b [K]:   Σ_i loss_i + ½ λ ‖W‖²

loss_i is the softmax cross entropy of labels [N] or, of targets [N, K], the sum over classes of the
logistic loss of each against the rest. This is scikit-learn's LogisticRegression with C = 1/λ. The
losses and their gradient are float32 on the devices; SciPy's L-BFGS drives them from the host,
which sums the losses of the rows in float64: with a rounded sum its line searches would end early.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.sharding import Mesh

from hsproto.core.numerics import matmul
from hsproto.parallel import mesh as mesh_lib

# Of a step and of the largest slope, relative to the objective where the search begins.
TOLERANCES = {"ftol": 1e-12, "gtol": 1e-8}
MAX_ITERATIONS = 1000


class Solution(NamedTuple):
    """A linear classifier: scores are features @ weights.T + bias."""

    weights: np.ndarray  # float32 [K, D]
    bias: np.ndarray  # float32 [K]
    iterations: int  # of L-BFGS
    converged: bool  # False where the limit of iterations was reached


class LogisticRegression:
    """A problem to be solved for several penalties and parts of its rows.

    Args:
        features: float32 [N, D], split over the mesh by rows.
        targets: labels int [N] in 0..K-1, or int [N, K]: 1 in the class, 0 not in it, -1 where it
            does not count.
        where: bool [N], rows that are not padding.
    """

    def __init__(
        self,
        features: jax.Array,
        targets: np.ndarray,
        num_classes: int,
        where: np.ndarray,
        mesh: Mesh,
    ):
        self._shape = (num_classes, features.shape[1])
        self._rows, whole = mesh_lib.over_batch(mesh), mesh_lib.replicated(mesh)
        # Neither a shift of the features, which the free bias takes up, nor a common scale, which
        # the penalty takes up, changes the solution; without them L-BFGS takes many more steps.
        moments = jax.jit(_moments, out_shardings=whole)(features, self._put(where))
        self._shift, self._scale = (np.asarray(x) for x in moments)
        shift = self._shift[None, :]
        standardize = jax.jit(lambda x: (x - shift) / self._scale, out_shardings=self._rows)
        self._features, self._targets = standardize(features), self._put(targets)
        self._evaluate = jax.jit(jax.value_and_grad(_losses, has_aux=True), out_shardings=whole)

    def fit(
        self,
        where: np.ndarray,
        penalty: float,
        start: Solution | None = None,
        max_iterations: int = MAX_ITERATIONS,
    ) -> Solution:
        """Return the `Solution` for λ = `penalty` on the rows `where` bool [N].

        The search begins at `start`, or at zero.
        """
        rows = self._put(where)
        penalty = penalty / float(self._scale) ** 2  # of weights on features divided by the scale

        def objective(flat):
            weights, bias = self._unflat(flat)
            params = weights.astype(np.float32), bias.astype(np.float32)
            (_, values), slopes = self._evaluate(params, self._features, self._targets, rows)
            slope, slope_of_bias = (np.asarray(x, np.float64) for x in slopes)
            value = np.sum(np.asarray(values), dtype=np.float64)
            value += 0.5 * penalty * np.sum(np.square(weights))
            return value, np.concatenate([(slope + penalty * weights).ravel(), slope_of_bias])

        begin = self._standardized(start)
        unit = objective(begin)[0]  # SciPy's tolerances are for values of about 1
        result = scipy.optimize.minimize(
            lambda flat: tuple(x / unit for x in objective(flat)),
            begin,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, **TOLERANCES},
        )
        weights, bias = self._unflat(result.x)
        weights = weights / self._scale
        # Status 1: a limit was reached. Status 2, a line search that finds nothing lower, is how a
        # search ends where float32 cannot tell values apart any more.
        return Solution(
            weights.astype(np.float32),
            (bias - weights @ self._shift).astype(np.float32),
            result.nit,
            result.status != 1,
        )

    def _standardized(self, solution):
        if solution is None:
            return np.zeros(self._shape[0] * (self._shape[1] + 1))
        weights = solution.weights.astype(np.float64)
        bias = solution.bias + weights @ self._shift
        return np.concatenate([(weights * self._scale).ravel(), bias])

    def _unflat(self, flat):
        count = self._shape[0] * self._shape[1]
        return flat[:count].reshape(self._shape), flat[count:]

    def _put(self, rows):
        rows = np.asarray(rows)
        return jax.make_array_from_callback(rows.shape, self._rows, lambda index: rows[index])


def scores(features: jax.Array, solution: Solution) -> jax.Array:
    """Return features @ weights.T + bias, float32 [B, K]."""
    return matmul(features, solution.weights.T) + solution.bias[None, :]


def _moments(features, where):
    """The rows' mean [D], and the root mean square of what is left."""
    count, where = jnp.sum(where), where[:, None]
    mean = jnp.sum(jnp.where(where, features, 0.0), axis=0) / count
    squares = jnp.where(where, jnp.square(features - mean[None, :]), 0.0)
    scale = jnp.sqrt(jnp.sum(squares) / (count * features.shape[1]))
    return mean, jnp.where(scale > 0, scale, 1.0)


def _losses(params, features, targets, where):
    """(sum, one by one [N]) of the rows' losses, without penalty."""
    weights, bias = params
    logits = matmul(features, weights.T) + bias[None, :]
    if targets.ndim == 1:
        own = targets[:, None] == jnp.arange(weights.shape[0])[None, :]
        margins = logits - jnp.sum(jnp.where(own, logits, 0.0), axis=1, keepdims=True)
        # log(1 + Σ exp) of the other classes keeps its digits where the loss is nearly 0, and so
        # does its derivative; the logsumexp of all less the own logit loses them.
        values = _log_one_plus_sum_exp(jnp.where(own, -jnp.inf, margins))
    else:
        signed = jnp.where(targets > 0, logits, -logits)
        values = jnp.sum(jnp.where(targets >= 0, jax.nn.softplus(-signed), 0.0), axis=1)
    values = jnp.where(where, values, 0.0)
    return jnp.sum(values), values


def _log_one_plus_sum_exp(x):
    peak = jnp.maximum(jnp.max(jax.lax.stop_gradient(x), axis=1), 0.0)
    # With a peak of 0, log1p; else the 1 is one of the exponentials.
    rest = jnp.sum(jnp.exp(x - peak[:, None]), axis=1) + jnp.expm1(-peak)
    return peak + jnp.log1p(rest)
