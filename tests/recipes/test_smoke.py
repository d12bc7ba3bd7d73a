"""Every recipe runs: whole, as far as shapes go, and small, from real images to a summary."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real_images
import tfds_sets
from small_runs import ROOT, outcome, recipe

from hsproto import config as config_lib
from hsproto import train as train_lib
from hsproto.data import crops
from hsproto.data import load as load_lib
from hsproto.data import source as source_lib
from hsproto.models import architecture
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.reporting.figures import runs as run_figures
from hsproto.training import objective
from hsproto.training import state as state_lib
from hsproto.training import step as step_lib

# What a small run leaves of its protocol, and what a config has from its data.
SHRUNK = {"width", "batch_size", "epochs", "warmup_epochs", "image_size", "load_size"}
SHRUNK |= {"eval_batch_size", "eval_every_epochs", "checkpoint_every_epochs", "log_every"}
OF_THE_DATA = {"dataset", "source", "data_dir", "placement", "imbalance_factor", "crop_on"}
OF_THE_DATA |= {"num_classes", "num_examples", "mean", "std", "interpolation"}
GEOMETRY = {"instance_alignment", "weight_alignment", "class_alignment", "nc1", "nc2_equinorm"}
GEOMETRY |= {"nc2_equiangular", "nc3", "nc4", "cdnv", "erank_inter", "erank_weights", "mir", "hdr"}

# Dimensions of the features of networks of full width.
DIMS = {"resnet18": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048, "vit_s": 384}
DIMS |= {"convnet": 32, "convnet_wide": 128}


# Functions that write a slice of real images into a folder, and say how a small run takes it. All
# networks have as many features, and most sets as many images and classes: what is compiled for the
# measures of one run serves others.


def embedded(root):
    """Images that come with scikit-learn."""
    return "width=12,batch_size=64,eval_batch_size=240"


def as_arrays(root):
    np.savez(root / "cifar10.npz", **real_images.arrays("cifar10", 10, 4, num_classes=10))
    return f"source=arrays,data_dir={root},width=8"


def as_small_arrays(root):
    """By the command that the recipe names."""
    as_arrays(root)
    command = [sys.executable, ROOT / "launch" / "small_data.py", f"--from={root}"]
    command += [f"--out={root / 'small'}", "--train_images=100"]
    subprocess.run(command, check=True, capture_output=True)
    return f"data_dir={root / 'small'},width=16"


def as_whole_small_arrays(root):
    as_small_arrays(root)
    return f"data_dir={root / 'small' / 'whole'},width=16,imbalance_factor=0.1"


def as_folder(root):
    """Streamed, as the whole set would be; a quarter of ImageNet's side."""
    real_images.write_folder(root, "tinyimagenet100", 10, 4, num_classes=10)
    return f"placement=stream,data_dir={root},width=2,image_size=56,load_size=64"


def as_tfds(root):
    """With the shortest of the paper's tails, for which few images suffice."""
    tfds_sets.prepare_cifar(root, "cifar100", real_images.arrays("cifar100", 10, 1))
    return f"dataset=cifar100,imbalance_factor=0.1,data_dir={root},width=8"


class Case(NamedTuple):
    """What a recipe stands for: its training set, the batch, and an image as the network has it."""

    classes: int
    images: int
    batch: int
    image: tuple[int, int, int]
    # Every loss and every backbone that the recipe names, once.
    arguments: list[str]
    # Of a small run: a fixture that other tests share, or one of the functions above.
    slice: str | Callable


CLASSIFIERS = ("cross_entropy", "dot_regression", "normface", "decoupled_normface", "ntce", "nonl")
LOSSES = [f"loss={loss}" for loss in CLASSIFIERS]
HEADS = ["projection=mlp", "projection=none"]
BACKBONES = ("resnet50", "resnet101", "resnet152", "resnet18", "vit_s", "resnet50")
DIGIT, CIFAR, HALF, IMAGENET = (8, 8, 1), (32, 32, 3), (16, 16, 3), (224, 224, 3)

CASES = {
    "digits": Case(10, 1437, 64, DIGIT, LOSSES, "digits_run"),
    "digits_sphere": Case(4, 576, 64, DIGIT, LOSSES, embedded),
    "scl_digits": Case(10, 1437, 64, DIGIT, HEADS, "scl_run"),
    "small": Case(10, 3000, 64, HALF, [*LOSSES, "loss=scl"], as_small_arrays),
    "small_longtail": Case(10, 12_406, 64, HALF, LOSSES, as_whole_small_arrays),
    "cifar": Case(10, 50_000, 512, CIFAR, [*LOSSES, "variant=released_code"], as_arrays),
    "scl_cifar": Case(10, 50_000, 512, CIFAR, HEADS, as_arrays),
    "longtail": Case(
        100,
        10_847,
        512,
        CIFAR,
        [*LOSSES, "loss=normface,logit_adjustment=1", "loss=dot_regression,balanced_lengths=true"],
        as_tfds,
    ),
    "imagenet100": Case(
        100,
        126_689,
        1024,
        IMAGENET,
        [f"{loss},backbone={name}" for loss, name in zip(LOSSES, BACKBONES, strict=True)],
        as_folder,
    ),
    "imagenet": Case(
        1000, 1_281_167, 4096, IMAGENET, [*LOSSES[:-1], "loss=nonl,dtype=bfloat16"], as_folder
    ),
    "scl_imagenet": Case(100, 126_689, 1024, IMAGENET, HEADS, as_folder),
}


class Whole(source_lib.Source):
    """Of a whole training set what a run asks before it reads one: its size, and an image's."""

    def __init__(self, config, case):
        self.class_names = tuple(map(str, range(case.classes)))
        self._spec, self._case = source_lib.data_spec(config), case

    def __len__(self):
        return self._case.images

    def __getitem__(self, i):
        side = self._spec.side
        return np.zeros((side, side, self._spec.channels), np.uint8), 0


class WholePictures(Whole, source_lib.PictureSource):
    """The same of a set that is stored as pictures, none of which is read."""

    def picture(self, i):
        raise NotImplementedError


def test_every_recipe_has_its_case():
    recipes = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert {*CASES, "photos"} == recipes  # photos: test_photos.py


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{name}:{a}" for name in CASES for a in CASES[name].arguments])
def test_a_whole_recipe_has_the_shapes_of_its_protocol(name, monkeypatch):
    """The training step is traced at its own size, which computes and compiles nothing."""
    case, config = CASES[name.partition(":")[0]], recipe(name)
    kind = WholePictures if config.source in config_lib.PICTURE_SOURCES else Whole
    source = kind(config, case)
    config = load_lib.resolve(config, source_lib.Splits(source, source))
    on_host = config.crop_on == "host"
    image = crops.RandomCrops(source, config).shape if on_host else source[0][0].shape
    prior = objective.log_prior(np.ones(case.classes)) if config.logit_adjustment else None
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, *image), jnp.uint8),
        "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    }

    seen, forward, batch_loss = {}, model_lib.forward, objective.batch_loss

    def seeing_forward(model, variables, images, train):
        outputs, batch_stats = forward(model, variables, images, train=train)
        seen["network"] = images.shape, outputs.features.shape
        return outputs, batch_stats

    def seeing_loss(config, outputs, prototypes, bias, labels, *more, **others):
        seen["loss"] = outputs.projections.shape, labels.shape
        seen["classifier"] = [None if x is None else x.shape for x in (prototypes, bias)]
        return batch_loss(config, outputs, prototypes, bias, labels, *more, **others)

    monkeypatch.setattr(model_lib, "forward", seeing_forward)
    monkeypatch.setattr(objective, "batch_loss", seeing_loss)
    mesh = mesh_lib.make_mesh(jax.devices()[:1])
    state = state_lib.abstract(config, mesh)
    after, metrics = jax.eval_shape(step_lib.make_train_step(config, mesh, prior), state, batch)

    contrastive = config.loss == "scl"
    views = 2 if contrastive else 1
    dims = config.embedding_dim or DIMS[config.backbone]
    assert config.batch_size == case.batch
    # ImageNet is cropped where it is read; small sets lie on the devices whole.
    assert image == ((views, *case.image) if "imagenet" in name else case.image)
    assert seen["network"] == ((views * case.batch, *case.image), (views * case.batch, dims))
    rows = views * case.batch // (2 if "released_code" in name else 1)
    loss_dims = config.projection_dim if config.projection == "mlp" else dims
    assert seen["loss"] == ((rows, loss_dims), (rows,))
    prototypes = None if contrastive else (case.classes, dims)
    bias = (case.classes,) if config.loss == "cross_entropy" else None
    assert seen["classifier"] == [prototypes, bias]
    told = {"loss", "gradient_norm", "learning_rate", *([] if contrastive else ["accuracy"])}
    assert set(metrics) == told
    assert all((x.shape, x.dtype) == ((), jnp.float32) for x in metrics.values())
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert {x.dtype for x in jax.tree.leaves(after.params)} == {jnp.dtype("float32")}


@pytest.fixture(params=CASES)
def small_run(request, tmp_path, monkeypatch):
    """(recipe, workdir) of a run of a few steps."""
    name = request.param
    if CASES[name].slice in ("digits_run", "scl_run"):
        return name, request.getfixturevalue(CASES[name].slice)
    argument = CASES[name].slice(tmp_path)
    config = recipe(name, f"batch_size=8,eval_batch_size=40,log_every=1,{argument}")
    epoch = len(load_lib.load_splits(config).train) / config.batch_size
    config.epochs, config.warmup_epochs = 3 / epoch, min(config.warmup_epochs, 1 / epoch)
    # One block a stage: whole networks are traced above, and compiling is most of what this takes.
    for network, (kind, depths) in architecture.RESNETS.items():
        monkeypatch.setitem(architecture.RESNETS, network, (kind, (1,) * len(depths)))
    # They take as long as the steps do; `test_train` has them drawn.
    monkeypatch.setattr(run_figures, "write_figures", lambda workdir, out: None)
    train_lib.train(config, tmp_path / "run")
    return name, tmp_path / "run"


@pytest.mark.slow
def test_a_small_run_goes_from_real_images_to_its_summary(small_run):
    name, workdir = small_run
    config = config_lib.from_json((workdir / "config.json").read_bytes())
    protocol = recipe(name)
    changed = {key for key in protocol if config[key] != protocol[key]}
    assert changed <= SHRUNK | OF_THE_DATA
    assert config.crop_on == ("host" if "imagenet" in name else "device")

    summary = json.loads((workdir / "summary.json").read_text())
    records, _ = outcome(workdir)
    losses = [record["loss"] for record in records if "loss" in record]
    assert summary["step"] == len(losses) == config_lib.total_steps(config) >= 3
    assert np.all(np.isfinite(losses))
    for split in ("train", "test"):
        assert 0 <= summary[split]["accuracy"] <= 1 and set(summary[split]) >= GEOMETRY
    assert all(math.isfinite(summary["train"][key]) for key in GEOMETRY)

    class_names = load_lib.load_splits(config).train.class_names
    dims = config.projection_dim if config.projection == "mlp" else architecture.feature_dim(config)
    with np.load(workdir / "prototypes.npz") as stored:
        assert tuple(stored["class_names"]) == class_names
        assert stored["prototypes"].shape == (len(class_names), dims)
        assert np.all(np.isfinite(stored["prototypes"]))
