"""Inputs as other libraries give them: lists, NumPy, objects that JAX or NumPy can read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracle_losses import NAMES, WITH_PROTOTYPES, WITH_TEMPERATURE, call, make

from hsproto import geometry, losses, prototypes
from hsproto.core import class_stats, spectra


class OfJax:
    """As `flax.nnx.Param` and others of their kind."""

    def __init__(self, array):
        self.array = jnp.asarray(array)

    def __jax_array__(self):
        return self.array


class OfNumpy:
    """As a pandas column, or a torch tensor on the CPU."""

    def __init__(self, array):
        self.array = np.asarray(array)

    def __array__(self, dtype=None, copy=None):
        return self.array.astype(dtype or self.array.dtype)


class OfDlpack:
    """As a torch tensor of bfloat16, which NumPy refuses to read."""

    def __init__(self, array):
        self.array = jnp.asarray(array)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Got unsupported ScalarType BFloat16")

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def as_list(array):
    return np.asarray(array).tolist()


KINDS = {
    "list": as_list,
    "list of arrays": lambda array: [jnp.asarray(row) for row in array],
    "numpy": np.asarray,
    "nnx.Param": lambda array: nnx.Param(jnp.asarray(array)),
    "__jax_array__": OfJax,
    "__array__": OfNumpy,
}


def convert(inputs, kind, *fields):
    return inputs._replace(**{field: KINDS[kind](getattr(inputs, field)) for field in fields})


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", NAMES)
def test_losses_take_arrays_of_any_origin(name, kind):
    inputs = make(0, (9, 4, 5), 0.2)
    right = call(losses, name, inputs)
    taken = convert(inputs, kind, "features", "prototypes", "bias", "labels", "where")
    if name == "prototype_softmax":
        taken = taken._replace(prototypes=inputs.prototypes)  # `call` takes its length
    found = call(losses, name, taken)
    np.testing.assert_array_equal(found.valid, right.valid)
    np.testing.assert_array_equal(found.values, right.values)


def test_bfloat16_that_numpy_cannot_read_comes_by_dlpack():
    inputs = make(0, (9, 4, 5), 0.2, dtype=jnp.bfloat16)
    right = call(losses, "nonl", inputs)
    found = call(losses, "nonl", inputs._replace(features=OfDlpack(inputs.features)))
    np.testing.assert_array_equal(found.values, right.values)


def test_torch_tensors_on_the_cpu():
    torch = pytest.importorskip("torch")
    inputs = make(0, (9, 4, 5), 0.2)
    right = call(losses, "nonl", inputs)
    tensors = {k: torch.tensor(getattr(inputs, k)) for k in ("features", "prototypes", "labels")}
    np.testing.assert_array_equal(
        call(losses, "nonl", inputs._replace(**tensors)).values, right.values
    )


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", NAMES)
def test_labels_may_stand_in_a_column(name, kind):
    inputs = make(1, (9, 4, 5), 0.2)
    right = call(losses, name, inputs)
    column = inputs._replace(labels=KINDS[kind](inputs.labels[:, None]))
    np.testing.assert_array_equal(call(losses, name, column).values, right.values)


TEMPERATURES = {
    "numpy [1]": np.array([0.2], np.float32),
    "numpy []": np.array(0.2, np.float32),
    "numpy number": np.float64(0.2),
    "jax [1]": jnp.array([0.2]),
    "nnx.Param [1]": nnx.Param(jnp.array([0.2])),
    "__jax_array__": OfJax(np.float32(0.2)),
    "__array__": OfNumpy(np.array([0.2], np.float32)),
}


@pytest.mark.parametrize("kind", sorted(TEMPERATURES))
@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_a_temperature_may_be_an_array_of_one(name, kind):
    inputs = make(2, (9, 4, 5), 0.2)
    right = call(losses, name, inputs)
    found = call(losses, name, inputs._replace(temperature=TEMPERATURES[kind]))
    np.testing.assert_array_equal(found.values, right.values)
    features = np.ones((2, 3), np.float32)
    assert prototypes.logits(features, features, temperature=TEMPERATURES[kind]).shape == (2, 2)


@pytest.mark.parametrize(
    "bad", [np.array([-0.2]), np.array([0.1, 0.2]), jnp.ones((1, 1)), OfNumpy("a")]
)
def test_any_other_temperature_is_refused(bad):
    inputs = make(2, (9, 4, 5), 0.2)
    with pytest.raises(ValueError, match="temperature must be"):
        call(losses, "nonl", inputs._replace(temperature=bad))


def test_a_learned_parameter_that_is_an_object_gets_its_gradient():
    inputs = make(3, (9, 4, 5), 0.2)

    def mean(head):
        return call(losses, "nonl", inputs._replace(prototypes=head)).mean()

    slope = jax.grad(mean)(nnx.Param(jnp.asarray(inputs.prototypes)))
    right = jax.grad(mean)(jnp.asarray(inputs.prototypes))
    np.testing.assert_array_equal(jnp.asarray(slope), right)


@pytest.mark.parametrize("labels", [np.zeros(9), np.zeros((9, 1)), [0.0] * 9, jnp.zeros(9)])
@pytest.mark.parametrize("name", NAMES)
def test_float_labels_are_refused(name, labels):
    inputs = make(4, (9, 4, 5), 0.2)
    with pytest.raises(ValueError, match="labels must (be integers|have shape)"):
        call(losses, name, inputs._replace(labels=labels))


@pytest.mark.parametrize("name", [name for name in NAMES if name in WITH_PROTOTYPES])
def test_integer_rows_of_one_hot_labels_are_refused(name):
    inputs = make(4, (9, 4, 5), 0.2)
    with pytest.raises(ValueError, match=r"labels must have shape \(9,\)"):
        call(losses, name, inputs._replace(labels=np.eye(4, dtype=np.int32)[np.zeros(9, int)]))


def test_labels_of_scl_beyond_32_bits_are_refused_with_the_reason():
    features = np.eye(4, dtype=np.float32)
    big = np.array([5, 5, 2**31, 2**31])
    for labels in (big, big.astype(np.uint32), big.tolist(), OfNumpy(big)):
        with pytest.raises(ValueError, match=r"labels must be below 2³¹-1.*32-bit.*2147483648"):
            losses.scl(features, labels, temperature=0.1)
    with pytest.raises(ValueError, match="labels must be below"):
        losses.scl(features, np.arange(4), temperature=0.1, queue=(features, big))
    # Rows that do not count may hold anything.
    found = losses.scl(features, big, temperature=0.1, where=big < 2**31)
    np.testing.assert_array_equal(found.valid, [True, True, False, False])


def test_labels_of_scl_beyond_32_bits_count_in_64_bit_mode():
    features = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    right = losses.scl(features, np.array([0, 0, 1, 1]), temperature=0.1)
    with jax.enable_x64(True):
        for labels in (np.array([5, 5, 2**40, 2**40]), jnp.array([5, 5, 2**40, 2**40])):
            found = losses.scl(features, labels, temperature=0.1)
            np.testing.assert_array_equal(found.valid, [True] * 4)
            np.testing.assert_allclose(found.values, right.values, rtol=1e-6)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_geometry_and_prototypes_take_them_too(kind):
    random = np.random.default_rng(5)
    features = random.normal(size=(24, 6)).astype(np.float32)
    labels, where = np.arange(24, dtype=np.int32) % 4, random.random(24) < 0.9
    weights, bias = features[:4], random.normal(size=4).astype(np.float32)

    def everything(kind):
        x, y, keep, w, b = (KINDS[kind](a) for a in (features, labels, where, weights, bias))
        return (
            geometry.neural_collapse(x, y, w, num_classes=4, bias=b, where=keep),
            class_stats.class_means(x, y, num_classes=4, where=keep),
            spectra.effective_rank(x),
            prototypes.fit(x, y, num_classes=4, where=keep),
            prototypes.logits(x, w),
            prototypes.predict(x, w),
        )

    jax.tree.map(np.testing.assert_array_equal, everything(kind), everything("numpy"))


@pytest.mark.parametrize("bad", ["features", None, {"a": 1}, [[1.0], [2.0, 3.0]], object()])
def test_what_is_no_array_is_refused_by_name(bad):
    with pytest.raises(ValueError, match="features must be an array"):
        losses.scl(bad, np.zeros(2, np.int32), temperature=0.1)
    with pytest.raises(ValueError, match="prototypes must be an array"):
        losses.ntce(np.ones((2, 3), np.float32), bad, np.zeros(2, np.int32), temperature=0.1)
    with pytest.raises(ValueError, match="matrix must be an array"):
        spectra.effective_rank(bad)
