"""The paper's CIFAR protocol: ResNet-18, batch 512, 1000 epochs, any classifier loss.

hsproto train --workdir=runs/cifar100_nonl \
  --config=configs/cifar.py:loss=nonl,dataset=cifar100

Reads the set with TFDS, or an npz of arrays with source=arrays,data_dir=DIR (DIR/cifar100.npz).
Needs at least one GPU; `epochs=200` and `dtype=bfloat16` shorten training. `variant=released_code`
takes the values of the paper's released code: 500 epochs, learning rate 0.4, losses and BatchNorm
of 256 images.

The paper's test accuracy (not run here), CIFAR-10 / CIFAR-100: cross_entropy 94.6 / 72.1,
dot_regression 94.4 / 72.1, normface 94.8 / 72.4, ntce 94.7 / 72.9, nonl 94.9 / 73.6. Its embedding
is `pooled`, whose non-negative features cannot form a simplex; `embedding=signed` can.
"""

from hsproto import recipes
from hsproto.config import with_argument


def get_config(arg=None):
    config = recipes.cifar()
    return with_argument(config, arg, recipes.cifar_released_code(config, arg))
