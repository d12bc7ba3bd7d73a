"""The recipes hold the numbers of the paper's protocols and, as variants, of its released code."""

import math
import re
import shutil

import numpy as np
import pytest
from small_runs import ROOT, recipe

from hsproto import cli
from hsproto import config as config_lib
from hsproto.errors import UserError
from hsproto.evaluation import probe
from hsproto.models import architecture
from hsproto.training import optimizer

CLASSIFIERS = (
    "cross_entropy",
    "dot_regression",
    "normface",
    "ntce",
    "nonl",
    "decoupled_normface",
)

# The paper's appendix E: recipe and argument; classes, training images; backbone, epochs, batch,
# the rate at that batch, warm-up epochs, temperature.
PAPER = {
    "cifar:dataset=cifar10": (10, 50_000, "resnet18", 1000, 512, 0.2, 0, 0.1),
    "cifar:dataset=cifar100": (100, 50_000, "resnet18", 1000, 512, 0.2, 0, 0.1),
    "longtail:dataset=cifar10": (10, 12_406, "resnet18", 1000, 512, 0.2, 0, 0.1),
    "longtail:dataset=cifar100": (100, 10_847, "resnet18", 1000, 512, 0.2, 0, 0.1),
    "imagenet100": (100, 126_689, "resnet50", 500, 1024, 0.4, 10, 0.2),
    "imagenet100:backbone=resnet101": (100, 126_689, "resnet101", 500, 1024, 0.4, 10, 0.2),
    "imagenet100:backbone=resnet152": (100, 126_689, "resnet152", 500, 1024, 0.4, 10, 0.2),
    "imagenet:batch_size=2048": (1000, 1_281_167, "resnet50", 500, 2048, 0.8, 10, 0.1),
    "imagenet:batch_size=4096": (1000, 1_281_167, "resnet50", 500, 4096, 1.6, 10, 0.1),
    "imagenet:batch_size=8192": (1000, 1_281_167, "resnet50", 500, 8192, 3.2, 10, 0.1),
    "scl_cifar:dataset=cifar10": (10, 50_000, "resnet18", 1000, 512, 0.05, 0, 0.1),
    "scl_cifar:dataset=cifar100": (100, 50_000, "resnet18", 1000, 512, 0.05, 0, 0.1),
    "scl_imagenet": (100, 126_689, "resnet50", 500, 1024, 0.8, 0, 0.2),
    "scl_imagenet:dataset=imagenet2012": (1000, 1_281_167, "resnet50", 500, 2048, 0.8, 5, 0.1),
}

# Of `variant=released_code`: epochs, the rate, groups of the loss, groups of BatchNorm, color
# jitter or none, blur.
JITTER = (0.4, 0.4, 0.4, 0.1)
RELEASED = {
    "cifar:dataset=cifar10": (500, 0.4, 2, 2, False, False),
    "cifar:dataset=cifar100,batch_size=256": (500, 0.2, 1, 1, False, False),
    "imagenet100": (500, 0.4, 4, 1, True, False),
    "imagenet:batch_size=8192": (500, 3.2, 32, 1, True, False),
    "scl_cifar:dataset=cifar100": (500, 0.4, 2, 2, True, False),
    "scl_imagenet": (500, 0.8, 4, 1, True, False),
    "scl_imagenet:dataset=imagenet2012": (500, 0.8, 8, 1, True, False),
}

# Epochs, rate and steps of linear probing.
PROBES = {
    "scl_cifar": (100, 5.0, (60, 75, 90)),
    "scl_imagenet": (90, 2.0, (30, 60, 80)),
}


def peak_rate(config, steps_per_epoch=100):
    rate = optimizer.learning_rate(config, steps_per_epoch)
    return float(rate(config.warmup_epochs * steps_per_epoch))


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_holds_the_papers_protocol(name):
    num_classes, num_examples, backbone, epochs, batch, rate, warmup, temperature = PAPER[name]
    config = recipe(name)
    assert (config.backbone, config.epochs, config.batch_size) == (backbone, epochs, batch)
    assert (config.warmup_epochs, config.temperature) == (warmup, temperature)
    assert (config.seed, config.momentum, config.weight_decay) == (42, 0.9, 1e-4)
    assert (config.loss_groups, config.head, config.embedding) == (1, "", "pooled")
    architecture.validate(config, num_classes)

    # The cosine from the peak to its thousandth, behind the warm-up.
    steps_per_epoch = num_examples / batch
    at = optimizer.learning_rate(config, steps_per_epoch)
    end = epochs * steps_per_epoch
    whole = lambda t: rate * (1e-3 + 0.999 * 0.5 * (1 + math.cos(math.pi * t / end)))  # noqa: E731
    assert np.isclose(at(0), 0.01 if warmup else rate)
    for part in (0.1, 0.5, 1.0):
        assert np.isclose(at(part * end), whole(part * end), rtol=1e-3)
    if warmup:
        half = warmup * steps_per_epoch / 2
        assert np.isclose(at(half), (0.01 + whole(2 * half)) / 2)


@pytest.mark.parametrize("name", PAPER)
def test_augmentation_and_evaluation_are_the_papers(name):
    config = recipe(name)
    contrastive, imagenet = "scl" in name, "imagenet" in name
    assert config.crop_scale == (0.2, 1.0) and config.flip
    assert config.jitter == (JITTER if contrastive else (0, 0, 0, 0))
    assert config.jitter_probability == 0.8
    assert config.grayscale_probability == (0.2 if contrastive else 0)
    assert (config.blur_probability > 0) == (contrastive and imagenet)
    assert config_lib.num_views(config) == (2 if contrastive else 1)
    assert config.projection == ("mlp" if contrastive else "none")
    assert config.projection_dim == 128
    sizes = (config.load_size or config.image_size, config.image_size)
    assert sizes == ((256, 224) if imagenet else (32, 32))
    assert config.stem == ("imagenet" if imagenet else "cifar")


@pytest.mark.parametrize("name", RELEASED)
def test_the_variant_takes_the_released_codes_values(name):
    epochs, rate, loss_groups, bn_groups, jitter, blur = RELEASED[name]
    config, paper = recipe(name, "variant=released_code"), recipe(name)
    assert (config.variant, paper.variant) == ("released_code", "paper")
    assert config.epochs == epochs and np.isclose(peak_rate(config), rate, rtol=1e-3)
    assert (config.loss_groups, config.bn_groups) == (loss_groups, bn_groups)
    assert config.batch_size // config.loss_groups == 256
    assert config.jitter == (JITTER if jitter else (0, 0, 0, 0))
    assert (config.blur_probability > 0) == blur
    kept = set(config) - {"variant", "epochs", "base_lr", "loss_groups", "bn_groups", "jitter"}
    assert all(config[key] == paper[key] for key in kept - {"blur_probability"})


@pytest.mark.parametrize("variant", ["paper", "released_code"])
@pytest.mark.parametrize("name", ["cifar", "imagenet100", "imagenet"])
def test_every_classifier_loss_and_backbone_goes_with_every_variant(name, variant):
    for loss in CLASSIFIERS:
        config = recipe(name, f"loss={loss},variant={variant}")
        architecture.validate(config, {"cifar": 100, "imagenet100": 100, "imagenet": 1000}[name])
    for backbone in ("resnet18", "resnet101", "resnet152", "vit_s"):
        architecture.validate(recipe(name, f"backbone={backbone},variant={variant}"), 100)


def test_contrastive_recipes_train_without_the_head_too():
    for name in ("scl_cifar", "scl_imagenet", "scl_imagenet:dataset=imagenet2012"):
        architecture.validate(recipe(name, "projection=none"), 1000)


def test_the_probes_protocol_is_the_papers():
    for name, (epochs, rate, decays) in PROBES.items():
        text = (ROOT / f"configs/{name}.py").read_text().split('"""')[1]
        command = re.search(r"hsproto probe --workdir=\S+(?: \\\n +(.*))?", text).group(1) or ""
        flags = dict(re.findall(r"--(\w+)=(\S+)", command))
        assert float(flags.get("epochs", 100)) == epochs
        assert float(flags.get("learning_rate", 5.0)) == rate
        assert flags.get("decay_epochs", "60/75/90") == "/".join(map(str, decays))
        config = probe.probe_config(recipe(name), "lp", probe.Protocol(epochs, rate, decays))
        assert (config.weight_decay, config.momentum) == (0, 0.9)
        assert np.isclose(peak_rate(config), rate)
        at = optimizer.learning_rate(config, 100)
        assert np.isclose(at(decays[0] * 100 - 1), rate)
        assert np.isclose(at(decays[2] * 100), rate * 0.2**3)


def test_what_the_argument_says_goes_before_the_variant():
    config = recipe("cifar", "epochs=7,variant=released_code,base_lr=0.3,loss_groups=4")
    assert (config.epochs, config.base_lr, config.loss_groups) == (7, 0.3, 4)
    assert recipe("cifar", "variant=released_code,batch_size=64").loss_groups == 1


def test_a_recipe_works_from_wherever_users_copy_it(tmp_path):
    for path in (ROOT / "configs").glob("*.py"):
        copy = shutil.copy(path, tmp_path)
        assert cli.load_config(str(copy)).to_dict() == recipe(path.stem).to_dict()


@pytest.mark.parametrize(
    ("location", "overrides", "told"),
    [
        ("cifar.py:variant=theirs", [], "variant='theirs' must be one of"),
        ("digits.py:variant=released_code", [], "this recipe has none"),
        ("cifar.py", ["--config.variant=released_code"], "FILE.py:variant=released_code"),
        ("cifar.py:batch_size=many,variant=released_code", [], "batch_size='many' must be int"),
    ],
)
def test_a_mistaken_variant_is_refused(location, overrides, told):
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        cli.load_config(f"{ROOT}/configs/{location}", overrides)
    assert "\n" not in str(caught.value)


def test_the_variant_is_kept_with_the_run_and_older_runs_resume():
    config = recipe("cifar", "variant=released_code")
    assert config_lib.from_json(config_lib.to_json(config)).variant == "released_code"
    older = recipe("cifar")
    older.variant = ""
    assert config_lib.differences(recipe("cifar"), older) == []
