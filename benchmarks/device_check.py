"""Losses, their gradients and the metrics on this device in float32, against float64 on the host.

    python benchmarks/device_check.py [--shape=512,100,128] [--out=check.json]

Accelerators multiply float32 matrices in fewer digits unless told otherwise (TF32 on GPUs, bfloat16
passes on TPUs), which a temperature of 0.1 multiplies by ten: hsproto asks for all digits. The last
row shows what the device's default would have given. The right values are those of the oracles of
the tests, in NumPy, as the equations are printed; gradients are compared along random directions,
which complex steps differentiate without cancellation. An error is the largest difference over the
largest right value, or over the length of the gradient. Exit status 1 if one is above its limit.
"""

import argparse
import pathlib
import sys

import jax
import jax.numpy as jnp
import measuring
import numpy as np

from hsproto import geometry, losses, prototypes

sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests" / "helpers"))
import oracle_geometry
import oracle_losses

TEMPERATURE = 0.1
DIRECTIONS = 4
LIMIT = 2e-5  # of losses and gradients: some hundred roundings of float32
GEOMETRY_LIMIT = 1e-4  # as in the tests
_STEP = 1e-30


def error(found, right):
    found, right = np.asarray(found, np.float64), np.asarray(right, np.float64)
    return float(np.max(np.abs(found - right)) / max(np.max(np.abs(right)), 1e-30))


def wide(inputs):
    """The same inputs in float64, where they are floats."""
    floats = [
        x.astype(np.float64) if np.issubdtype(np.asarray(x).dtype, np.floating) else x
        for x in inputs
    ]
    return inputs._replace(**dict(zip(inputs._fields, floats, strict=True)))


def along(name, inputs, argument, direction):
    """The derivative of the oracle's mean loss along a direction of one argument."""
    moved = getattr(inputs, argument) + 1j * _STEP * direction
    return oracle_losses.anchors(name, inputs._replace(**{argument: moved})).mean().imag / _STEP


def check_loss(name, inputs):
    """Rows of the table: values of a loss, and its gradient with respect to each argument."""
    arguments, exact = oracle_losses.arguments(name), wide(inputs)

    def mean(given):
        found = oracle_losses.call(losses, name, inputs._replace(**given))
        return found.mean(), found.values

    given = {argument: jnp.asarray(getattr(inputs, argument)) for argument in arguments}
    (_, values), slopes = jax.jit(jax.value_and_grad(mean, has_aux=True))(given)
    yield f"{name}: values", error(values, oracle_losses.anchors(name, exact).values), LIMIT
    rng = np.random.default_rng(1)
    for argument in arguments:
        slope = np.asarray(slopes[argument], np.float64)
        differences = []
        for _ in range(DIRECTIONS):
            direction = rng.normal(size=slope.shape)
            right = along(name, exact, argument, direction)
            differences.append(abs(np.sum(slope * direction) - right))
        # The derivative along such a direction is about as large as the gradient is long.
        off = float(max(differences) / np.linalg.norm(slope))
        yield f"{name}: gradient of {argument}", off, LIMIT


def check_geometry(inputs):
    """Rows of the metrics, and of the classifier of class means."""
    features, weights, labels = inputs.features, inputs.prototypes, inputs.labels
    classes = len(weights)
    right = oracle_geometry.neural_collapse(
        features.astype(np.float64), labels, weights.astype(np.float64), num_classes=classes
    )
    found = geometry.neural_collapse(features, labels, weights, num_classes=classes)
    for key, value in right.items():
        if np.isfinite(value):
            off = abs(float(found[key]) - value) / max(abs(value), 1e-2)
            yield f"geometry: {key}", off, GEOMETRY_LIMIT
    units = oracle_geometry.unit(features.astype(np.float64))
    sums = np.zeros((classes, units.shape[1]))
    np.add.at(sums, labels, units)
    fitted = prototypes.fit(features, labels, num_classes=classes)
    yield "prototypes.fit", error(fitted, oracle_geometry.unit(sums)), LIMIT
    cosines = units @ oracle_geometry.unit(sums).T
    yield "prototypes.logits", error(prototypes.logits(features, fitted), cosines), LIMIT


def default_precision(inputs):
    """The error of the same cosines over the temperature by the device's default product."""
    units, weights = (oracle_geometry.unit(x) for x in wide(inputs)[:2])
    found = jax.jit(lambda a, b: a @ b.T)(*(jnp.asarray(x, jnp.float32) for x in (units, weights)))
    return float(np.max(np.abs(np.asarray(found, np.float64) - units @ weights.T)) / TEMPERATURE)


def check(shape, names):
    inputs = oracle_losses.make(0, shape, TEMPERATURE, masked=False)
    labels = np.arange(shape[0], dtype=np.int32) % shape[1]  # each class: else nothing is defined
    inputs = inputs._replace(labels=labels)
    found = [row for name in names for row in check_loss(name, inputs)]
    found += check_geometry(inputs)
    rows = [
        {"what": what, "error": off, "limit": limit, "right": "yes" if off <= limit else "NO"}
        for what, off, limit in found
    ]
    default = {"what": "the device's default product / temperature (not used)"}
    return rows + [default | {"error": default_precision(inputs), "limit": None, "right": None}]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="512,100,128", help="rows, classes, dimensions")
    parser.add_argument("--losses", default=",".join(oracle_losses.NAMES))
    parser.add_argument("--out", help="JSON file to write")
    options = parser.parse_args()
    shape = tuple(map(int, options.shape.split(",")))
    names = options.losses.split(",")
    if len(shape) != 3 or shape[0] < 2 * shape[1]:
        parser.error("--shape must be rows,classes,dimensions, with two rows per class or more")
    if unknown := set(names) - set(oracle_losses.NAMES):
        parser.error(f"--losses: {', '.join(sorted(unknown))}")
    rows = check(shape, names)
    measuring.write(options.out, measuring.environment("jaxlib") | {"rows": rows})
    measuring.show(rows)
    wrong = [row["what"] for row in rows if row["right"] == "NO"]
    print(f"{len(wrong)} of {len(rows) - 1} are wrong" + "".join(f"\n  {w}" for w in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
