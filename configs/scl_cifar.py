"""The paper's supervised contrastive learning on CIFAR: ResNet-18, MLP head, batch 512.

hsproto train --workdir=runs/scl_cifar100 \
  --config=configs/scl_cifar.py:dataset=cifar100
hsproto probe --workdir=runs/scl_cifar100

Reads the set with TFDS, or an npz of arrays with source=arrays,data_dir=DIR (DIR/cifar100.npz).
`projection=none` trains without the head. `variant=released_code` takes the values of the paper's
released code: 500 epochs, learning rate 0.4, losses and BatchNorm of 256 images.

The paper's test accuracy (not run here), CIFAR-10 / CIFAR-100: linear probing 95.0 / 73.9, NormFace
probing 94.9 / 73.6, fixed prototypes 95.0 / 73.9, cached linear probing 94.4 / 72.3. Without the
head: 95 / 70.6, 95 / 71.4 and 95 / 71.4.
"""

from hsproto import recipes
from hsproto.config import with_argument


def get_config(arg=None):
    config = recipes.cifar()
    recipes.add_scl_head_and_augmentation(config)
    config.loss = "scl"
    config.base_lr = 0.025  # 0.05 at batch 512
    return with_argument(config, arg, recipes.cifar_released_code(config, arg))
