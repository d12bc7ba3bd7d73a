"""What the recipes in `configs/` share: protocols of the paper, and those that fit a laptop.

A recipe starts from a protocol, sets what is its own, and ends with `config.with_argument`. It
imports all this from the package, not from a file beside it: recipes are loaded by their path, and
users copy them elsewhere.
"""

from ml_collections import ConfigDict

from hsproto.config import argument_value, default

JITTER = (0.4, 0.4, 0.4, 0.1)  # SCL's strengths of brightness, contrast, saturation and hue


def cifar() -> ConfigDict:
    """Return the paper's CIFAR protocol: ResNet-18, batch 512, 1000 epochs."""
    config = default()
    config.dataset = "cifar10"
    config.source = "tfds"
    config.image_size = 32

    config.backbone = "resnet18"
    config.stem = "cifar"
    config.embedding = "pooled"

    config.loss = "nonl"
    config.temperature = 0.1
    config.batch_size = 512
    config.epochs = 1000.0
    config.base_lr = 0.1  # 0.2 at batch 512

    config.eval_every_epochs = 20.0
    config.eval_batch_size = 2000
    config.checkpoint_every_epochs = 10.0
    config.log_every = 50
    return config


def imagenet() -> ConfigDict:
    """Return the paper's ImageNet protocol: ResNet-50, 500 epochs; batch and temperature vary.

    The backbone computes in bfloat16, which the paper does not ask for: a step takes half the
    memory (docs/hardware.md).
    """
    config = default()
    config.source = "folder"
    config.image_size = 224
    config.load_size = 256

    config.backbone = "resnet50"
    config.stem = "imagenet"
    config.dtype = "bfloat16"
    config.embedding = "pooled"

    config.loss = "nonl"
    config.epochs = 500.0
    config.base_lr = 0.1  # times batch_size / 256
    config.warmup_epochs = 10.0
    config.warmup_lr = 0.01

    config.eval_every_epochs = 10.0
    config.eval_batch_size = 512
    config.checkpoint_every_epochs = 5.0
    config.log_every = 50
    return config


def digits() -> ConfigDict:
    """Return the protocol of the digits: a small network that a CPU trains within a minute."""
    config = default()
    config.dataset = config.source = "digits"
    config.image_size = 8
    config.channels = 1
    config.flip = False  # a mirrored 2 is not a 2
    config.crop_scale = (0.7, 1.0)

    config.backbone = "convnet"
    config.width = 32
    config.embedding = "signed"

    config.loss = "nonl"
    config.temperature = 0.1
    config.batch_size = 64
    config.epochs = 80.0
    config.base_lr = 0.2
    config.warmup_epochs = 2.0
    config.weight_decay = 5e-4

    config.eval_every_epochs = 8.0
    config.eval_batch_size = 480
    config.checkpoint_every_epochs = 10.0
    return config


def small(few_classes: bool) -> ConfigDict:
    """Return the protocol of small images: a small network that a CPU trains within minutes.

    The temperature is what the paper recommends for few classes and for many. A batch of many
    classes is larger, so that it holds most of them.
    """
    config = default()
    config.dataset = "cifar10"
    config.source = "arrays"
    config.image_size = 16

    config.backbone = "convnet_wide"
    config.width = 32
    config.embedding = "pooled"

    config.loss = "nonl"
    config.temperature = 0.2 if few_classes else 0.1
    config.batch_size = 64 if few_classes else 256
    config.base_lr = 0.8  # 0.2 at batch 64, 0.8 at 256

    config.eval_every_epochs = 5.0
    config.eval_batch_size = 1000
    config.keep_checkpoints = 1
    return config


def features() -> ConfigDict:
    """Return the protocol of a classifier on features of another network: seconds on a CPU."""
    config = default()
    config.source = config.backbone = "features"
    config.image_size = 1
    config.channels = 0
    config.crop_scale = (1.0, 1.0)
    config.flip = False
    config.embedding = "signed"

    config.loss = "nonl"
    config.temperature = 0.1
    config.batch_size = 512
    config.epochs = 20.0
    config.base_lr = 0.1
    config.warmup_epochs = 1.0
    config.weight_decay = 5e-4

    config.eval_batch_size = 2000
    config.keep_checkpoints = 1
    return config


def add_scl_head_and_augmentation(config: ConfigDict) -> None:
    """Add the paper's projection head and augmentation of supervised contrastive learning."""
    config.projection = "mlp"
    config.jitter = JITTER
    config.grayscale_probability = 0.2


def released_code_gpus(config: ConfigDict, argument: str | None) -> int:
    """Return the GPUs of a batch in the paper's released code, whose losses see 256 images each."""
    return max(1, argument_value(argument, "batch_size", config.batch_size) // 256)


def cifar_released_code(config: ConfigDict, argument: str | None) -> dict:
    """Return the values of the paper's released code for CIFAR: `variant=released_code`.

    Losses and BatchNorm see the 256 images of each GPU.
    """
    gpus = released_code_gpus(config, argument)
    return dict(epochs=500.0, base_lr=0.2, loss_groups=gpus, bn_groups=gpus)


def imagenet_released_code(config: ConfigDict, argument: str | None) -> dict:
    """Return the values of the paper's released code for ImageNet: `variant=released_code`.

    Losses see the 256 images of each GPU. The strengths of the jitter are SCL's; SCL has no blur.
    """
    return dict(
        jitter=JITTER, blur_probability=0.0, loss_groups=released_code_gpus(config, argument)
    )
