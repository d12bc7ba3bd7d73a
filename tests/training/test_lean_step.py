"""A step keeps no second copy of its state, and none of a batch's pixels that it cuts off."""

import jax
import jax.numpy as jnp
import pytest
from small_runs import recipe, tiny_config

from hsproto.data import augment
from hsproto.hardware import data_sizes
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import memory
from hsproto.training import state as state_lib
from hsproto.training import step as step_lib


@pytest.mark.parametrize("argument", ["", "queue_size=128,queue_momentum=0.9"])
def test_the_next_state_takes_the_place_of_the_last(argument):
    config = data_sizes.resolve(tiny_config("digits", f"crop_scale=1/1,{argument}"))
    mesh = mesh_lib.make_mesh(jax.devices()[:1])
    state, rows = state_lib.abstract(config, mesh), mesh_lib.over_batch(mesh)
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, 8, 8, 1), jnp.uint8, sharding=rows),
        "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32, sharding=rows),
    }
    step = step_lib.make_train_step(config, mesh).lower(state, batch).compile()
    aliased = step.memory_analysis().alias_size_in_bytes
    assert aliased == sum(map(memory.on_device, jax.tree.leaves(state)))


def sizes_of_floats(function, *arguments):
    """Elements of each float array of a traced function, its inner functions included."""

    def of(jaxpr):
        for equation in jaxpr.eqns:
            for variable in equation.outvars:
                if jnp.issubdtype(variable.aval.dtype, jnp.floating):
                    yield variable.aval.size
            for value in equation.params.values():
                if hasattr(value, "jaxpr"):
                    yield from of(value.jaxpr)

    return list(of(jax.make_jaxpr(function)(*arguments).jaxpr))


@pytest.mark.parametrize("argument", ["crop_scale=1/1", "crop_on=host", "evaluation"])
def test_only_what_is_left_of_images_becomes_float(argument):
    in_training = argument != "evaluation"
    config = recipe("imagenet", f"image_size=16,load_size=48{f',{argument}' * in_training}")
    views, side = ((1,), 16) if config.crop_on == "host" else ((), 48)
    images = jax.ShapeDtypeStruct((4, *views, side, side, 3), jnp.uint8)
    if in_training:
        keys = jax.random.split(jax.random.key(0), 4)
        sizes = sizes_of_floats(augment.make_augment(config), keys, images)
    else:
        sizes = sizes_of_floats(augment.make_preprocess(config), images)
    assert max(sizes) == 4 * 16 * 16 * 3


RECIPES = ("digits", "cifar", "scl_cifar", "imagenet", "imagenet100", "scl_imagenet", "longtail")


@pytest.mark.parametrize("name", RECIPES)
def test_few_rows_of_an_evaluation_are_padding(name):
    config = data_sizes.resolve(recipe(name))
    size = config.eval_batch_size
    splits = config.num_examples, data_sizes.test_examples(config)
    rows = sum(-(-images // size) * size for images in splits)
    assert rows <= 1.07 * sum(splits)
