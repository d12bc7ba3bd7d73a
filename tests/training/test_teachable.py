"""Combinations in which a loss cannot teach are refused, as the loss itself has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import tiny_config

from hsproto import config as config_lib
from hsproto import config_checks, train
from hsproto.errors import UserError
from hsproto.methods import LOSSES
from hsproto.models.model import Outputs
from hsproto.training import objective


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_part_of_the_batch_is_refused_where_its_loss_is_not_valid(loss, images):
    config = config_lib.with_argument(
        config_lib.default(), f"loss={loss},batch_size={4 * images},loss_groups=4"
    )
    config.num_classes = 5
    rows = images * config_lib.num_views(config)
    draw = np.random.default_rng(0)
    features = jnp.asarray(draw.normal(size=(rows, 6)), jnp.float32)
    prototypes = jnp.asarray(draw.normal(size=(5, 6)), jnp.float32)
    # No two images of a class: what is left even then is there for every batch.
    labels = jnp.arange(rows, dtype=jnp.int32) % images

    def of(features):
        found = objective.batch_loss(
            config, Outputs(features, features), prototypes, jnp.zeros(5), labels
        )
        return found.mean(), found.valid

    (_, valid), slope = jax.jit(jax.value_and_grad(of, has_aux=True))(features)
    teaches = bool(valid.any() and jnp.any(jnp.abs(slope) > 1e-6))
    try:
        config_checks.validate(config)
    except UserError as error:
        assert "without any" in str(error) and not teaches
    else:
        assert teaches


def test_batch_norm_of_single_rows_is_refused():
    for argument in ("batch_size=1", "batch_size=4,bn_groups=4", "batch_size=4,microbatches=4"):
        config = config_lib.with_argument(
            config_lib.default(), f"loss=normface,embedding=signed_bn,{argument}"
        )
        with pytest.raises(UserError, match="normalizes over at least 2 rows"):
            config_checks.validate(config)
    config.batch_size = 8
    config_checks.validate(config)


def test_a_class_without_images_is_refused_before_the_workdir_is_claimed(tmp_path):
    images, labels = np.zeros((12, 8, 8, 1), np.uint8), np.arange(12) % 2
    arrays = {f"{s}_{k}": v for s in ("train", "test") for k, v in
              (("images", images), ("labels", labels))}  # fmt: skip
    np.savez(tmp_path / "x.npz", **arrays, class_names=np.array(["a", "b", "none"]))
    config = tiny_config(
        argument=f"source=arrays,dataset=x,data_dir={tmp_path},loss=normface,batch_size=8,"
        "eval_batch_size=8,logit_adjustment=1,sampler=shuffle"
    )
    with pytest.raises(UserError, match="class 2 has none"):
        train.train(config, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_the_digits_under_the_name_of_another_set_are_refused(tmp_path):
    for name in ("cifar10", "imagenet2012", "mine"):
        with pytest.raises(UserError, match=f"dataset='{name}' with source='digits'"):
            train.train(tiny_config(argument=f"dataset={name}"), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
