"""The paper's supervised contrastive learning on ImageNet-100 and ImageNet-1K: ResNet-50, MLP head.

hsproto train --workdir=runs/scl_imagenet100 \
  --config=configs/scl_imagenet.py:dataset=imagenet100,data_dir=DIR
hsproto probe --workdir=runs/scl_imagenet100 \
  --epochs=90 --learning_rate=2.0 --decay_epochs=30/60/80

dataset=imagenet2012 takes the values of ImageNet-1K: batch 2048 and a warm-up; its probe takes
--learning_rate=0.8. Data as in configs/imagenet100.py and configs/imagenet.py; to select
ImageNet-100 from ImageNet in TFDS, use dataset=imagenet2012,class_list=imagenet100_cmc.
`projection=none` trains without the head. The backbone computes in bfloat16; `dtype=float32` is the
paper's, which names no other precision. `variant=released_code` takes the values of the paper's
released code: no blur, losses of 256 images.

The paper's test accuracy (not run here), ImageNet-100 / ImageNet-1K: linear probing 84.8 / 75.1,
NormFace probing 84.8 / 75.1, fixed prototypes 86.8 / 75.1. Without the head: 84.1 / 71, 84.3 / 72.1
and 84.7 / 70.1.
"""

from hsproto import recipes
from hsproto.config import argument_value, with_argument


def get_config(arg=None):
    config = recipes.imagenet()
    recipes.add_scl_head_and_augmentation(config)
    config.dataset = "imagenet100"
    config.blur_probability = 0.5  # SimCLR's; the paper does not give its own
    config.loss = "scl"

    imagenet1k = argument_value(arg, "dataset", config.dataset) == "imagenet2012"
    if imagenet1k and not argument_value(arg, "class_list", ""):
        config.temperature = 0.1
        config.batch_size = 2048
        config.base_lr = 0.1  # 0.8 at batch 2048
        config.warmup_epochs = 5.0
    else:
        config.temperature = 0.2
        config.batch_size = 1024
        config.base_lr = 0.2  # 0.8 at batch 1024
        config.warmup_epochs = 0.0
    return with_argument(config, arg, recipes.imagenet_released_code(config, arg))
