"""The paper's ImageNet-1K protocol: ResNet-50, batch 2048 to 8192, 500 epochs, any classifier loss.

hsproto train --workdir=runs/imagenet_nonl \
  --config=configs/imagenet.py:loss=nonl,batch_size=8192,data_dir=DIR

Reads DIR/train/<class>/* and DIR/val/<class>/*; from TFDS: source=tfds. For many GPUs or a TPU pod;
`dtype=bfloat16` saves time and memory, `microbatches=4` memory, `workers=16` decodes in processes.
The paper takes the best of three batches; the rate grows with the batch. Its text gives the
temperature as 0.2 too. `variant=released_code` takes the values of the paper's released code:
colour jitter, losses of 256 images.

The paper's test accuracy (not run here) at batch 2048 / 4096 / 8192: cross_entropy 75.4 / 75.4 /
75.1, normface 75.6 / 76.4 / 76.3, ntce 76.0 / 76.7 / 76.7, nonl 75.0 / 76.2 / 76.5;
dot_regression 75.4. decoupled_normface is not in the paper.
"""

from hsproto.config import default, given, with_argument


def get_config(arg=None):
    config = default()
    config.dataset = "imagenet2012"
    config.source = "folder"
    config.image_size = 224
    config.load_size = 256

    config.backbone = "resnet50"
    config.stem = "imagenet"
    config.embedding = "pooled"

    config.loss = "nonl"
    config.temperature = 0.1
    config.batch_size = 4096
    config.epochs = 500.0
    config.base_lr = 0.1  # 1.6 at batch 4096
    config.warmup_epochs = 10.0
    config.warmup_lr = 0.01

    config.eval_every_epochs = 10.0
    config.eval_batch_size = 512
    config.checkpoint_every_epochs = 1.0
    config.log_every = 50

    # Losses see the 256 images of each GPU. The strengths of the jitter are SCL's.
    gpus = max(1, given(arg, "batch_size", config.batch_size) // 256)
    released_code = dict(jitter=(0.4, 0.4, 0.4, 0.1), loss_groups=gpus)
    return with_argument(config, arg, released_code)
