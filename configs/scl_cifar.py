"""The paper's supervised contrastive learning on CIFAR: ResNet-18, MLP head, batch 512.

hsproto train --workdir=runs/scl_cifar100 \
  --config=configs/scl_cifar.py:dataset=cifar100
hsproto probe --workdir=runs/scl_cifar100

Reads the set with TFDS; from an npz of arrays: source=arrays,data_dir=DIR (holding cifar100.npz).
`projection=none` trains without the head. `variant=released_code` takes the values of the paper's
released code: 500 epochs, rate 0.4, losses and BatchNorm of 256 images.

The paper's test accuracy (not run here), CIFAR-10 / CIFAR-100: linear probing 95.0 / 73.9, NormFace
probing 94.9 / 73.6, fixed prototypes 95.0 / 73.9, cached linear probing 94.4 / 72.3. Without the
head: 95 / 70.6, 95 / 71.4 and 95 / 71.4.
"""

from hsproto.config import default, given, with_argument


def get_config(arg=None):
    config = default()
    config.dataset = "cifar10"
    config.source = "tfds"
    config.image_size = 32
    config.jitter = (0.4, 0.4, 0.4, 0.1)
    config.grayscale_probability = 0.2

    config.backbone = "resnet18"
    config.stem = "cifar"
    config.embedding = "pooled"
    config.projection = "mlp"

    config.loss = "scl"
    config.temperature = 0.1
    config.batch_size = 512
    config.epochs = 1000.0
    config.base_lr = 0.025  # 0.05 at batch 512

    config.eval_every_epochs = 20.0
    config.eval_batch_size = 2000
    config.checkpoint_every_epochs = 10.0
    config.log_every = 50

    # Losses and BatchNorm see the 256 images of each GPU.
    gpus = max(1, given(arg, "batch_size", config.batch_size) // 256)
    released_code = dict(epochs=500.0, base_lr=0.2, loss_groups=gpus, bn_groups=gpus)
    return with_argument(config, arg, released_code)
