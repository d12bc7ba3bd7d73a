"""The paper's ImageNet-1K protocol: ResNet-50, batch 2048 to 8192, 500 epochs, any classifier loss.

hsproto train --workdir=runs/imagenet_nonl \
  --config=configs/imagenet.py:loss=nonl,batch_size=8192,data_dir=DIR

Reads DIR/train/<class>/* and DIR/val/<class>/*, or TFDS with source=tfds. Needs many GPUs or a TPU
pod; `remat=true` and `microbatches=4` save memory, and `workers=16` decodes in processes. The
backbone computes in bfloat16, in half the memory (docs/hardware.md); `dtype=float32` is the paper's
protocol, which names no other precision. The paper reports the best of three batch sizes; the
learning rate is proportional to the batch size. Its text also gives the temperature as 0.2.
`variant=released_code` takes the values of the paper's released code: color jitter, losses of 256
images.

The paper's test accuracy (not run here) at batch 2048 / 4096 / 8192: cross_entropy 75.4 / 75.4 /
75.1, normface 75.6 / 76.4 / 76.3, ntce 76.0 / 76.7 / 76.7, nonl 75.0 / 76.2 / 76.5;
dot_regression 75.4. decoupled_normface is not in the paper.
"""

from hsproto import recipes
from hsproto.config import with_argument


def get_config(arg=None):
    config = recipes.imagenet()
    config.dataset = "imagenet2012"
    config.temperature = 0.1
    config.batch_size = 4096  # whose rate is 1.6
    config.checkpoint_every_epochs = 1.0
    return with_argument(config, arg, recipes.imagenet_released_code(config, arg))
