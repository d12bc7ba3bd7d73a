"""With `remat` a block computes its insides again for the gradient, and nothing else changes."""

import re

import chex
import jax
import jax.numpy as jnp
import pytest

from hsproto.config import default
from hsproto.models import architecture
from hsproto.models import model as model_lib

SHAPE = (16, 16, 3)
BLOCKS = {"resnet18": 8, "vit_s": 2}


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """ViTs of two blocks."""
    monkeypatch.setitem(architecture.VITS["vit_s"], "depth", 2)


def build(backbone, remat):
    config = default()
    config.update(dict(backbone=backbone, width=4, image_size=16, remat=remat))
    return model_lib.build(config, 10)


def gradient(model):
    def loss(params, batch_stats, images):
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, updated = model_lib.forward(model, variables, images, train=True)
        return jnp.sum(jnp.square(outputs.features)), updated

    return jax.value_and_grad(loss, has_aux=True)


def abstract_variables(model):
    return jax.eval_shape(lambda key: model_lib.init(model, key, SHAPE), jax.random.key(0))


@pytest.mark.parametrize("backbone", BLOCKS)
def test_each_block_is_computed_again_and_no_sum_over_the_batch(backbone):
    images, programs, variables = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32), [], []
    for remat in (False, True):
        model = build(backbone, remat)
        variables.append(abstract_variables(model))
        arguments = variables[0]["params"], variables[0]["batch_stats"], images
        programs.append(str(jax.make_jaxpr(gradient(model))(*arguments)))
    # A checkpoint of either is one of the other.
    chex.assert_trees_all_equal_shapes_and_dtypes(*variables)
    assert [len(re.findall(r"= remat2?\[", text)) for text in programs] == [0, BLOCKS[backbone]]
    layers = [len(re.findall(r"= (?:conv_general_dilated|dot_general)\[", t)) for t in programs]
    assert layers[0] < layers[1] <= layers[0] * 3 / 2
    # Devices exchange BatchNorm's sums: once.
    sums = [text.count("= reduce_sum[") for text in programs]
    assert sums[1] <= sums[0]


def test_loss_gradient_and_statistics_are_the_same():
    model = build("resnet18", False)
    variables = jax.jit(lambda key: model_lib.init(model, key, SHAPE))(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, *SHAPE))
    kept, again = (
        jax.jit(gradient(build("resnet18", remat)))(
            variables["params"], variables["batch_stats"], images
        )
        for remat in (False, True)
    )
    chex.assert_trees_all_close(again, kept, rtol=1e-5, atol=1e-5)
