"""The paper's supervised contrastive learning on ImageNet-100 and ImageNet-1K: ResNet-50, MLP head.

hsproto train --workdir=runs/scl_imagenet100 \
  --config=configs/scl_imagenet.py:dataset=imagenet100,data_dir=DIR
hsproto probe --workdir=runs/scl_imagenet100 \
  --epochs=90 --learning_rate=2.0 --decay_epochs=30/60/80

With dataset=imagenet2012 the values of ImageNet-1K: batch 2048, a warm-up; its probe takes
--learning_rate=0.8. Data as in configs/imagenet100.py and configs/imagenet.py; ImageNet-100 out of
all of ImageNet by TFDS is that protocol with dataset=imagenet2012,class_list=imagenet100_cmc.
`projection=none` trains without the head. `variant=released_code` takes the values of the paper's
released code: no blur, losses of 256 images.

The paper's test accuracy (not run here), ImageNet-100 / ImageNet-1K: linear probing 84.8 / 75.1,
NormFace probing 84.8 / 75.1, fixed prototypes 86.8 / 75.1. Without the head: 84.1 / 71, 84.3 / 72.1
and 84.7 / 70.1.
"""

from hsproto.config import default, given, with_argument


def get_config(arg=None):
    config = default()
    config.dataset = "imagenet100"
    config.source = "folder"
    config.image_size = 224
    config.load_size = 256
    config.jitter = (0.4, 0.4, 0.4, 0.1)
    config.grayscale_probability = 0.2
    config.blur_probability = 0.5  # SimCLR's; the paper does not tell its own

    config.backbone = "resnet50"
    config.stem = "imagenet"
    config.embedding = "pooled"
    config.projection = "mlp"

    config.loss = "scl"
    config.epochs = 500.0
    whole = given(arg, "dataset", config.dataset) == "imagenet2012"
    if whole and not given(arg, "class_list", ""):
        config.temperature = 0.1
        config.batch_size = 2048
        config.base_lr = 0.1  # 0.8 at batch 2048
        config.warmup_epochs = 5.0
        config.warmup_lr = 0.01
    else:
        config.temperature = 0.2
        config.batch_size = 1024
        config.base_lr = 0.2  # 0.8 at batch 1024

    config.eval_every_epochs = 10.0
    config.eval_batch_size = 512
    config.checkpoint_every_epochs = 5.0
    config.log_every = 50

    # Losses see the 256 images of each GPU.
    gpus = max(1, given(arg, "batch_size", config.batch_size) // 256)
    released_code = dict(blur_probability=0.0, loss_groups=gpus)
    return with_argument(config, arg, released_code)
