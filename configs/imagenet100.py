"""The paper's ImageNet-100 protocol: ResNet-50, batch 1024, 500 epochs, any classifier loss.

hsproto train --workdir=runs/imagenet100_nonl \
  --config=configs/imagenet100.py:loss=nonl,data_dir=DIR

Reads DIR/train/<class>/* and DIR/val/<class>/*, of 100 classes; or out of all of ImageNet, from a
folder or TFDS (source=tfds,dataset=imagenet2012), with class_list=imagenet100_cmc or
imagenet100_kaggle: two lists go by the name, and the paper does not say which it took. For GPUs;
`dtype=bfloat16` saves time and memory, `microbatches=4` memory, `workers=16` decodes in processes.
`backbone=resnet101`, `resnet152` and `vit_s` are the other ones. `variant=released_code` takes the
values of the paper's released code: colour jitter, losses of 256 images.

The paper's test accuracy (not run here), ResNet-50 / 101 / 152: cross_entropy 84.4 / 85.3 / 85.5,
normface 84.4 / 85.4 / 85.6, ntce 84.7 / 85.4 / 85.4, nonl 84.9 / 85.5 / 85.8; dot_regression 84.5
with ResNet-50. decoupled_normface is not in the paper.
"""

from hsproto.config import default, given, with_argument


def get_config(arg=None):
    config = default()
    config.dataset = "imagenet100"
    config.source = "folder"
    config.image_size = 224
    config.load_size = 256

    config.backbone = "resnet50"
    config.stem = "imagenet"
    config.embedding = "pooled"

    config.loss = "nonl"
    config.temperature = 0.2
    config.batch_size = 1024
    config.epochs = 500.0
    config.base_lr = 0.1  # 0.4 at batch 1024
    config.warmup_epochs = 10.0
    config.warmup_lr = 0.01

    config.eval_every_epochs = 10.0
    config.eval_batch_size = 512
    config.checkpoint_every_epochs = 5.0
    config.log_every = 50

    # Losses see the 256 images of each GPU. The strengths of the jitter are SCL's.
    gpus = max(1, given(arg, "batch_size", config.batch_size) // 256)
    released_code = dict(jitter=(0.4, 0.4, 0.4, 0.1), loss_groups=gpus)
    return with_argument(config, arg, released_code)
