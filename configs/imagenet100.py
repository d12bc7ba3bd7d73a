"""The paper's ImageNet-100 protocol: ResNet-50, batch 1024, 500 epochs, any classifier loss.

hsproto train --workdir=runs/imagenet100_nonl \
  --config=configs/imagenet100.py:loss=nonl,data_dir=DIR

Reads DIR/train/<class>/* and DIR/val/<class>/* of 100 classes; or selects them from ImageNet, in a
folder or TFDS (source=tfds,dataset=imagenet2012), with class_list=imagenet100_cmc or
imagenet100_kaggle: two lists share the name, and the paper does not say which it used. Needs GPUs;
`remat=true` and `microbatches=4` save memory, and `workers=16` decodes in processes. The backbone
computes in bfloat16; `dtype=float32` is the paper's, which names no other precision. The other
backbones are `backbone=resnet101`, `resnet152` and `vit_s`. `variant=released_code` takes the
values of the paper's released code: color jitter, losses of 256 images.

The paper's test accuracy (not run here), ResNet-50 / 101 / 152: cross_entropy 84.4 / 85.3 / 85.5,
normface 84.4 / 85.4 / 85.6, ntce 84.7 / 85.4 / 85.4, nonl 84.9 / 85.5 / 85.8; dot_regression 84.5
with ResNet-50. decoupled_normface is not in the paper.
"""

from hsproto import recipes
from hsproto.config import with_argument


def get_config(arg=None):
    config = recipes.imagenet()
    config.dataset = "imagenet100"
    config.temperature = 0.2
    config.batch_size = 1024  # whose rate is 0.4
    return with_argument(config, arg, recipes.imagenet_released_code(config, arg))
