"""The networks are torchvision's (checked against torch itself), and the features are what the
losses need: float32, signed where a simplex is wanted, with prototypes that learn or stay."""

import ast
import functools
import pathlib
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import hsproto
from hsproto import methods
from hsproto.config import default
from hsproto.errors import UserError
from hsproto.models import architecture
from hsproto.models import classifier as classifier_lib
from hsproto.models import model as model_lib
from hsproto.models.vit import VisionTransformer


def configured(**changes):
    config = default()
    config.update(dict(backbone="convnet", width=8, image_size=8, channels=3) | changes)
    return config


def abstract(config, num_classes=10):
    """The model, and its variables and outputs as shapes: nothing is computed."""
    model = model_lib.build(config, num_classes)
    shape = (config.image_size, config.image_size, config.channels)
    variables = jax.eval_shape(lambda key: model_lib.init(model, key, shape), jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    forward = functools.partial(model_lib.forward, model, train=True)
    return SimpleNamespace(
        model=model, variables=variables, outputs=jax.eval_shape(forward, variables, images)
    )


def initialized(config, num_classes=10, seed=0):
    model = model_lib.build(config, num_classes)
    shape = (config.image_size, config.image_size, config.channels)
    return model, jitted_init(model, jax.random.key(seed), shape)


# Models are values, so that equal ones share what is compiled.
jitted_init = jax.jit(model_lib.init, static_argnums=(0, 2))
jitted_forward = jax.jit(model_lib.forward, static_argnums=(0, 3))


def forward(model, variables, images, train=False):
    return jitted_forward(model, variables, images, train)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def random_images(count, side, channels=3, seed=0):
    shape = (count, side, side, channels)
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def relative_error(given, wanted):
    return np.abs(np.asarray(given) - np.asarray(wanted)).max() / np.abs(np.asarray(wanted)).max()


# Sizes and shapes


@pytest.mark.parametrize(
    "backbone, parameters, dim",
    [
        ("resnet18", 11_689_512, 512),
        ("resnet34", 21_797_672, 512),
        ("resnet50", 25_557_032, 2048),
        ("resnet101", 44_549_160, 2048),
        ("resnet152", 60_192_808, 2048),
        ("vit_s", 22_050_664, 384),
        ("vit_b", 86_567_656, 768),
    ],
)
def test_published_parameter_counts(backbone, parameters, dim):
    config = configured(
        backbone=backbone, stem="imagenet", width=64, image_size=224, loss="cross_entropy"
    )
    net = abstract(config, num_classes=1000)
    assert size(net.variables["params"]) == parameters
    assert net.outputs[0].features.shape == (2, dim)
    assert architecture.feature_dim(config) == dim


def test_cifar_stem_has_a_3x3_kernel_where_the_imagenet_stem_has_7x7():
    cifar = abstract(configured(backbone="resnet18", width=64, stem="cifar", image_size=32))
    assert size(cifar.variables["params"]["backbone"]) == 11_168_832
    imagenet = abstract(configured(backbone="resnet18", width=64, stem="imagenet", image_size=32))
    assert size(imagenet.variables["params"]["backbone"]) == 11_168_832 + 64 * 3 * (49 - 9)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "vit_s", "convnet", "convnet_wide"])
@pytest.mark.parametrize(
    "embedding, embedding_dim", [("pooled", 0), ("signed", 0), ("signed", 24), ("signed_bn", 0)]
)
def test_features_have_the_embeddings_dimensions(backbone, embedding, embedding_dim):
    config = configured(
        backbone=backbone, image_size=16, embedding=embedding, embedding_dim=embedding_dim
    )
    net = abstract(config)
    dim = architecture.feature_dim(config)
    assert dim == embedding_dim or not embedding_dim
    assert net.outputs[0].features.shape == (2, dim)
    assert net.outputs[0].projections.shape == (2, dim)
    prototypes, bias = classifier_lib.classifier(net.variables)
    assert prototypes.shape == (10, dim) and bias is None


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "vit_s", "convnet"])
def test_a_bfloat16_backbone_keeps_parameters_statistics_and_features_in_float32(backbone):
    config = configured(
        backbone=backbone, image_size=16, dtype="bfloat16", embedding="signed", loss="scl"
    )
    config.projection = "mlp"
    net = abstract(config)
    assert {leaf.dtype for leaf in jax.tree.leaves((net.variables, net.outputs))} == {
        jnp.dtype(jnp.float32)
    }
    images = jnp.zeros((2, 16, 16, 3))
    program = str(
        jax.make_jaxpr(lambda v, x: model_lib.forward(net.model, v, x, True))(net.variables, images)
    )
    convolutions = re.findall(r"(\w+)\[[\d,]*\] = conv_general_dilated", program)
    assert set(convolutions) == {"bf16"}
    # The last products are the embedding and the projection head.
    products = re.findall(r"(\w+)\[[\d,]*\] = dot_general", program)
    assert products[-3:] == ["f32"] * 3


@pytest.mark.parametrize("backbone", ["convnet", "resnet18"])
def test_bfloat16_features_are_close_to_float32_ones(backbone):
    config = configured(backbone=backbone)
    exact, variables = arbitrary_weights(config)
    config.dtype = "bfloat16"
    images = random_images(4, 8)
    half, _ = forward(model_lib.build(config, 10), variables, images)
    full, _ = forward(exact, variables, images)
    error = relative_error(half.features, full.features)
    assert 1e-5 < error < 0.03


# Equal to torch


def flat(tree):
    """{("layer1_0", "conv1", "kernel"): array}, in the order of the sorted names."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {tuple(entry.key for entry in path): leaf for path, leaf in leaves}


def arbitrary_weights(config):
    """A model with weights (of BatchNorm too) from a stream of numbers that is frozen."""
    net, random = abstract(config), np.random.RandomState(0)
    draw = {
        "kernel": lambda s: random.standard_normal(s) * (2 * s[-2] / np.prod(s)) ** 0.5,
        "scale": lambda s: random.uniform(0.5, 1.5, s),
        "bias": lambda s: 0.1 * random.standard_normal(s),
        "mean": lambda s: 0.1 * random.standard_normal(s),
        "var": lambda s: random.uniform(0.5, 1.5, s),
    }
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: draw.get(path[-1].key, np.zeros)(leaf.shape).astype(np.float32),
        {key: dict(sorted(net.variables[key].items())) for key in ("batch_stats", "params")},
    )
    return net.model, variables


# The first features of the first image, from the torch networks below in float64 with the weights
# of `arbitrary_weights`: the agreement is checked where torch is missing too.
RECORDED = {
    ("resnet18", "imagenet", 40, True): [0.798064, 0.369494, 1.559494, 1.272569, 0.201393, 0.0],
    ("resnet50", "cifar", 18, False): [0.0, 986.76942, 336.058654, 7.193883, 0.0, 212.067338],
}


@pytest.mark.parametrize("backbone, stem, side, train", RECORDED)
def test_features_equal_those_recorded_from_torch(backbone, stem, side, train):
    model, variables = arbitrary_weights(configured(backbone=backbone, stem=stem, image_size=side))
    outputs, _ = forward(model, variables, random_images(8, side), train)
    assert relative_error(outputs.features[0, :6], RECORDED[backbone, stem, side, train]) < 2e-5


def torch_resnet(torch, kind, depths, width, stem):
    """torchvision's ResNet up to the average pooling, in as few words as it takes."""
    nn = torch.nn

    def conv(inputs, outputs, kernel, stride):
        return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs, channels, stride):
            super().__init__()
            if kind == "basic":
                outputs = channels
                self.conv1, self.bn1 = conv(inputs, channels, 3, stride), nn.BatchNorm2d(channels)
                self.conv2, self.bn2 = conv(channels, channels, 3, 1), nn.BatchNorm2d(channels)
            else:
                outputs = 4 * channels
                self.conv1, self.bn1 = conv(inputs, channels, 1, 1), nn.BatchNorm2d(channels)
                self.conv2, self.bn2 = conv(channels, channels, 3, stride), nn.BatchNorm2d(channels)
                self.conv3, self.bn3 = conv(channels, outputs, 1, 1), nn.BatchNorm2d(outputs)
            self.downsample = nn.Identity()
            if stride != 1 or inputs != outputs:
                self.downsample = nn.Sequential(
                    conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
                )

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            if kind == "bottleneck":
                y = self.bn3(self.conv3(torch.relu(y)))
            return torch.relu(y + self.downsample(x))

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = conv(3, width, *((7, 2) if stem == "imagenet" else (3, 1)))
            self.bn1 = nn.BatchNorm2d(width)
            self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
            inputs = width
            for stage, depth in enumerate(depths):
                blocks = []
                for i in range(depth):
                    channels = width * 2**stage
                    blocks.append(Block(inputs, channels, 2 if stage > 0 and i == 0 else 1))
                    inputs = channels * (1 if kind == "basic" else 4)
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

        def forward(self, x):
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))

    return ResNet()


def from_torch(state, tree):
    """The arrays of a torch state dict in the structure of `tree`."""
    leaf_names = {"kernel": "weight", "scale": "weight", "mean": "running_mean"}
    leaf_names |= {"var": "running_var", "bias": "bias"}

    def pick(path, leaf):
        *module, name = (entry.key for entry in path)
        module = re.sub(r"layer(\d)_(\d+)", r"layer\1.\2", ".".join(module))
        module = module.replace("downsample_conv", "downsample.0")
        module = module.replace("downsample_bn", "downsample.1")
        value = state[f"{module}.{leaf_names[name]}"].detach().numpy().copy()
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        assert value.shape == leaf.shape
        return value

    return jax.tree_util.tree_map_with_path(pick, tree)


@pytest.mark.parametrize("stem, side", [("cifar", 18), ("imagenet", 40)])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_a_resnet_with_torchs_weights_gives_torchs_features_and_statistics(backbone, stem, side):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    config = configured(backbone=backbone, stem=stem, image_size=side)
    net = abstract(config)
    torch.manual_seed(0)
    twin = torch_resnet(torch, *architecture.RESNETS[backbone], config.width, stem)
    norms = [module for module in twin.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, 0, 0.1)
        torch.nn.init.normal_(norm.running_mean, 0, 0.1)
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def copied(collection):
        return from_torch(twin.state_dict(), net.variables[collection]["backbone"])

    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), net.variables)
    for collection in ("params", "batch_stats"):
        variables[collection]["backbone"] = copied(collection)
    images = random_images(8, side)
    torch_images = torch.tensor(images.transpose(0, 3, 1, 2))

    outputs, _ = forward(net.model, variables, images)
    wanted = twin.eval()(torch_images).detach().numpy()
    assert relative_error(outputs.features, wanted) < 2e-6

    # How many numbers each BatchNorm averages: torch keeps the unbiased variance, flax the biased.
    counts, old = {}, {}
    for norm in norms:
        old[norm] = norm.running_var.clone()
        norm.register_forward_pre_hook(lambda m, x: counts.update({m: x[0][:, 0].numel()}))
    outputs, stats = forward(net.model, variables, images, train=True)
    wanted = twin.train()(torch_images).detach().numpy()
    assert relative_error(outputs.features, wanted) < 3e-4
    for norm, n in counts.items():
        kept = 0.9 * old[norm]
        norm.running_var = kept + (norm.running_var - kept) * (n - 1) / n
    for path, wanted in flat(copied("batch_stats")).items():
        assert relative_error(flat(stats["backbone"])[path], wanted) < 2e-5


def test_a_vit_with_torchs_weights_gives_torchs_features():
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    dim, heads, patch, depth = 32, 4, 4, 2
    torch.manual_seed(0)
    patches = torch.nn.Conv2d(3, dim, patch, patch)
    layers = [
        torch.nn.TransformerEncoderLayer(
            dim,
            heads,
            4 * dim,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        ).eval()
        for _ in range(depth)
    ]
    norm = torch.nn.LayerNorm(dim, eps=1e-6)
    for module in (*layers, norm):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, 0, 0.2)
    images = random_images(3, 8)
    token, positions = torch.randn(1, 1, dim), torch.randn(1, 5, dim)
    x = patches(torch.tensor(images.transpose(0, 3, 1, 2))).flatten(2).transpose(1, 2)
    x = torch.cat([token.expand(3, 1, dim), x], dim=1) + positions
    for layer in layers:
        x = layer(x)
    wanted = norm(x)[:, 0].detach().numpy()

    def dense(module):
        return {"kernel": module.weight.T.detach().numpy(), "bias": module.bias.detach().numpy()}

    def layer_norm(module):
        return {"scale": module.weight.detach().numpy(), "bias": module.bias.detach().numpy()}

    def attention(module):
        weights = module.in_proj_weight.detach().numpy().reshape(3, dim, dim)
        biases = module.in_proj_bias.detach().numpy().reshape(3, heads, -1)
        parts = {
            name: {"kernel": w.T.reshape(dim, heads, -1), "bias": b}
            for name, w, b in zip(("query", "key", "value"), weights, biases, strict=True)
        }
        out = dense(module.out_proj)
        return parts | {"out": out | {"kernel": out["kernel"].reshape(heads, -1, dim)}}

    params = {
        "conv_proj": {
            "kernel": patches.weight.detach().numpy().transpose(2, 3, 1, 0),
            "bias": patches.bias.detach().numpy(),
        },
        "class_token": token.numpy(),
        "pos_embedding": positions.numpy(),
        "ln": layer_norm(norm),
    }
    for i, layer in enumerate(layers):
        params[f"encoder_layer_{i}"] = {
            "ln_1": layer_norm(layer.norm1),
            "ln_2": layer_norm(layer.norm2),
            "self_attention": attention(layer.self_attn),
            "mlp_0": dense(layer.linear1),
            "mlp_3": dense(layer.linear2),
        }
    vit = VisionTransformer(patch, dim, heads, jnp.float32, depth)
    features = jax.jit(lambda p, x: vit.apply({"params": p}, x, False))(params, images)
    assert relative_error(features, wanted) < 2e-6


# Initial weights


def uniform_of_bound(weights, bound):
    weights = np.asarray(weights)
    assert np.abs(weights).max() <= bound
    assert np.abs(weights).max() > 0.9 * bound
    assert abs(weights.std() / (bound / 3**0.5) - 1) < 0.1


def test_convolutions_start_as_an_untruncated_normal_of_fan_out():
    _, variables = initialized(configured(width=64))
    kernel = np.asarray(variables["params"]["backbone"]["conv2"]["kernel"])
    std = (2 / (3 * 3 * 64)) ** 0.5
    assert abs(kernel.std() / std - 1) < 0.02
    assert abs(kernel.mean()) < 0.02 * std
    beyond_two = np.mean(np.abs(kernel) > 2 * std)
    assert 0.04 < beyond_two < 0.05  # 0.0455 of a normal, none of a truncated one
    norm = variables["params"]["backbone"]["bn2"]
    stats = variables["batch_stats"]["backbone"]["bn2"]
    for ones, zeros in ((norm["scale"], norm["bias"]), (stats["var"], stats["mean"])):
        np.testing.assert_array_equal(ones, 1)
        np.testing.assert_array_equal(zeros, 0)


def test_linear_layers_and_heads_start_as_torchs_linear():
    _, variables = initialized(
        configured(width=64, loss="cross_entropy", embedding="signed", embedding_dim=400), 50
    )
    params = variables["params"]
    uniform_of_bound(params["embedding"]["kernel"], 64**-0.5)
    uniform_of_bound(params["embedding"]["bias"], 64**-0.5)
    uniform_of_bound(params["prototypes"], 400**-0.5)
    assert np.abs(params["bias"]).max() <= 400**-0.5
    assert np.std(params["bias"]) > 0


def test_a_vit_starts_as_torchvisions():
    dim = 96
    vit = VisionTransformer(patch_size=4, dim=dim, num_heads=4, dtype=jnp.float32, depth=1)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.jit(lambda key: vit.init(key, images, False))(jax.random.key(0))["params"]
    layer = params["encoder_layer_0"]
    for part in ("query", "key", "value"):
        uniform_of_bound(layer["self_attention"][part]["kernel"], (6 / (4 * dim)) ** 0.5)
        np.testing.assert_array_equal(layer["self_attention"][part]["bias"], 0)
    uniform_of_bound(layer["self_attention"]["out"]["kernel"], dim**-0.5)
    uniform_of_bound(layer["mlp_0"]["kernel"], (6 / (5 * dim)) ** 0.5)
    uniform_of_bound(layer["mlp_3"]["kernel"], (6 / (5 * dim)) ** 0.5)
    assert np.abs(layer["mlp_0"]["bias"]).max() < 1e-5
    assert abs(np.std(params["conv_proj"]["kernel"]) / (4 * 4 * 3) ** -0.5 - 1) < 0.05
    assert abs(np.std(params["pos_embedding"]) / 0.02 - 1) < 0.1
    np.testing.assert_array_equal(params["class_token"], 0)


def test_initial_weights_are_a_function_of_the_key():
    config = configured(embedding="signed")
    same, again, other = (initialized(config, seed=seed)[1]["params"] for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, same, again)
    assert not np.allclose(same["prototypes"], other["prototypes"])


# Embedding and projection


@functools.cache
def convnet(embedding):
    model, variables = arbitrary_weights(configured(embedding=embedding))
    return variables, jax.jit(lambda v, x: model_lib.forward(model, v, x, True)[0].features)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.floats(-2, 2))
def test_pooled_features_are_never_negative_and_signed_ones_are(seed, shift):
    images = random_images(8, 8, seed=seed) + np.float32(shift)
    for embedding in architecture.EMBEDDINGS:
        variables, features = convnet(embedding)
        lowest = np.min(features(variables, images))
        assert lowest >= 0 if embedding == "pooled" else lowest < 0


def test_a_batch_norm_embedding_has_zero_mean_and_unit_variance_over_the_batch():
    variables, features = convnet("signed_bn")
    z = np.asarray(features(variables, random_images(64, 8)), np.float64)
    affine = variables["params"]["embedding_bn"]
    z = (z - affine["bias"]) / affine["scale"]
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(0), 1, atol=0.02)  # eps 1e-5 beside a small variance


@pytest.mark.parametrize("projection", architecture.PROJECTIONS)
def test_the_projection_head_is_none_a_matrix_or_an_mlp(projection):
    config = configured(loss="scl", projection=projection, projection_dim=5)
    model, variables = arbitrary_weights(config)
    outputs, _ = forward(model, variables, random_images(4, 8))
    wanted = np.asarray(outputs.features, np.float64)
    if projection == "mlp":
        hidden = variables["params"]["projection_hidden"]
        assert hidden["kernel"].shape == (8, 8)
        wanted = np.maximum(wanted @ np.float64(hidden["kernel"]) + hidden["bias"], 0)
    if projection != "none":
        last = variables["params"]["projection"]
        assert last["kernel"].shape == (8, 5)
        wanted = wanted @ np.float64(last["kernel"]) + last["bias"]
    np.testing.assert_allclose(outputs.projections, wanted, rtol=1e-5, atol=1e-6)
    assert classifier_lib.classifier(variables) == (None, None)


# Training and evaluating


def test_statistics_move_in_training_by_a_tenth_and_stay_in_evaluation():
    model, variables = initialized(configured())
    images = random_images(16, 8)
    _, same = forward(model, variables, images, train=False)
    jax.tree.map(np.testing.assert_array_equal, same, variables["batch_stats"])
    _, new = forward(model, variables, images, train=True)
    kernel = np.float64(variables["params"]["backbone"]["conv1"]["kernel"])
    padded = np.pad(np.float64(images), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    convolved = np.einsum("bhwcij,ijco->bhwo", windows, kernel)
    stats = new["backbone"]["bn1"]
    np.testing.assert_allclose(stats["mean"], 0.1 * convolved.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * convolved.var((0, 1, 2)), rtol=1e-5)


def test_a_vit_has_no_batch_statistics():
    net = abstract(configured(backbone="vit_s", patch_size=4))
    assert net.variables["batch_stats"] == {}
    assert net.outputs[1] == {}


def test_batch_norm_of_a_sharded_batch_is_that_of_the_whole_batch():
    devices = jax.device_count()
    if devices == 1:
        pytest.skip("needs more than one device; JAX_NUM_CPU_DEVICES=8 simulates them")
    model, variables = arbitrary_weights(configured(embedding="signed_bn"))
    # Every device's images have a mean of their own.
    images = random_images(4 * devices, 8) + np.repeat(np.arange(devices), 4)[:, None, None, None]
    images = images.astype(np.float32)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    variables_everywhere = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    together = forward(model, variables, images, train=True)
    apart = forward(model, variables_everywhere, split, train=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), together, apart)


# The classifier head


def test_every_loss_gets_the_head_that_it_needs():
    for loss in methods.LOSS_HEADS:
        variables = abstract(configured(loss=loss, width=16)).variables
        learnt = set(variables["params"]) - {"backbone"}
        wanted = {"prototypes"}
        if loss == "cross_entropy":
            wanted = {"prototypes", "bias"}
        elif loss in ("scl", "prototype_softmax", "dot_regression"):
            wanted = set()
        assert learnt == wanted
        assert ("constants" in variables) == (loss == "dot_regression")
        prototypes, bias = classifier_lib.classifier(variables)
        assert (prototypes is None) == (loss in ("scl", "prototype_softmax"))
        assert (bias is not None) == (loss == "cross_entropy")


@pytest.mark.parametrize("num_classes, width", [(9, 8), (10, 16)])
def test_the_etf_is_an_exact_simplex_that_no_optimizer_sees(num_classes, width):
    model, variables = initialized(configured(loss="nonl", head="etf", width=width), num_classes)
    assert set(variables["params"]) == {"backbone"}
    prototypes, bias = classifier_lib.classifier(variables)
    assert bias is None and prototypes.dtype == jnp.float32
    cosines = np.float64(prototypes) @ np.float64(prototypes).T
    simplex = (num_classes * np.eye(num_classes) - 1) / (num_classes - 1)
    np.testing.assert_allclose(cosines, simplex, atol=2e-6)
    _, stats = jax.eval_shape(
        functools.partial(model_lib.forward, model, train=True), variables, random_images(4, 8)
    )
    assert set(stats) == {"backbone"}


def test_only_models_imports_flax():
    importing = set()
    for path in pathlib.Path(hsproto.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] == "flax" for name in names):
                importing.add(path.parent.name)
    assert importing == {"models"}


# Errors


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(backbone="resnet20"), ["backbone", "'resnet20'", "'resnet18'", "'convnet'"]),
        (dict(stem="tiny"), ["stem", "'tiny'", "'cifar'", "'imagenet'"]),
        (dict(embedding="raw"), ["embedding", "'raw'", "'pooled'", "'signed_bn'"]),
        (dict(head="cosine"), ["head", "'cosine'", "'prototypes'", "'etf'"]),
        (dict(projection="deep"), ["projection", "'deep'", "'linear'", "'mlp'"]),
        (dict(dtype="float16"), ["dtype", "'float16'", "'float32'", "'bfloat16'"]),
        (dict(loss="triplet"), ["loss", "'triplet'", "'nonl'"]),
        (dict(loss="scl", head="linear"), ["head='linear'", "loss='scl'", "'none'"]),
        (dict(loss="nonl", head="none"), ["head='none'", "loss='nonl'", "'prototypes'"]),
        (dict(loss="nonl", head="linear"), ["head='linear'", "loss='nonl'", "'prototypes'"]),
        (dict(loss="dot_regression", head="prototypes"), ["head='prototypes'", "'etf'"]),
        (dict(loss="nonl", projection="mlp"), ["projection='mlp'", "loss='nonl'", "'none'"]),
        (dict(embedding_dim=12), ["embedding_dim=12", "'pooled'", "signed"]),
        (dict(embedding="signed_bn", embedding_dim=12), ["embedding_dim=12", "'signed_bn'"]),
        (dict(backbone="vit_s", patch_size=16), ["patch_size=16", "image_size=8"]),
        (dict(backbone="vit_s", patch_size=3), ["patch_size=3", "image_size=8"]),
        (dict(head="etf"), ["head='etf'", "num_classes=10", "9", "8"]),
        (dict(remat=True), ["remat=True", "backbone='convnet'", "ResNet"]),
    ],
)
def test_a_config_that_is_no_model_is_refused_in_one_line(changes, words):
    with pytest.raises(UserError) as error:
        model_lib.build(configured(**changes), 10)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_one_class_is_refused():
    with pytest.raises(UserError, match=r"hold 1 class\(es\): at least 2"):
        model_lib.build(configured(), 1)


def test_a_config_is_checked_without_the_number_of_classes():
    architecture.validate(configured(head="etf"))
