"""The paper's CIFAR protocol: ResNet-18, batch 512, 1000 epochs, any of the classifier losses.

hsproto train --workdir=runs/cifar100_nonl \
  --config=configs/cifar.py:loss=nonl,dataset=cifar100

Reads the set with TFDS; from an npz of arrays: source=arrays,data_dir=DIR (holding cifar100.npz).
One GPU or more; `epochs=200` and `dtype=bfloat16` shorten it. `variant=released_code` takes the
values of the paper's released code: 500 epochs, rate 0.4, losses and BatchNorm of 256 images.

The paper's test accuracy (not run here), CIFAR-10 / CIFAR-100: cross_entropy 94.6 / 72.1,
dot_regression 94.4 / 72.1, normface 94.8 / 72.4, ntce 94.7 / 72.9, nonl 94.9 / 73.6. Its embedding
is `pooled`, whose non-negative features cannot form a simplex; `embedding=signed` can.
"""

from hsproto.config import default, given, with_argument


def get_config(arg=None):
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

    # Losses and BatchNorm see the 256 images of each GPU.
    gpus = max(1, given(arg, "batch_size", config.batch_size) // 256)
    released_code = dict(epochs=500.0, base_lr=0.2, loss_groups=gpus, bn_groups=gpus)
    return with_argument(config, arg, released_code)
