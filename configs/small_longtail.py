"""Long tails at a desk: configs/small.py's network on whole CIFAR-10 or CIFAR-100, 16 pixels wide.

python launch/small_data.py --from=DIR --out=SMALL
hsproto train --workdir=runs/small_longtail \
  --config=configs/small_longtail.py:data_dir=SMALL/whole,loss=nonl,imbalance_factor=0.01

Classes keep as many images as in the paper's tails, 12,406 in all at CIFAR-10's 0.01. Values are
those of configs/small.py but for epochs and crops; `loss`, `imbalance_factor`, `subset_seed` and
the means against the tail are as in configs/longtail.py. What came out: docs/results/README.md.
"""

from hsproto.config import default, given, with_argument


def get_config(arg=None):
    config = default()
    config.dataset = "cifar10"
    config.source = "arrays"
    config.imbalance_factor = 0.01
    config.image_size = 16
    few_classes = given(arg, "dataset", config.dataset) == "cifar10"

    config.backbone = "convnet_wide"
    config.width = 32
    config.embedding = "pooled"

    config.loss = "nonl"
    config.temperature = 0.2 if few_classes else 0.1
    config.batch_size = 64 if few_classes else 256
    config.epochs = 10.0
    config.base_lr = 0.8
    config.warmup_epochs = 1.0
    config.crop_scale = (0.5, 1.0)

    config.eval_every_epochs = 5.0
    config.eval_batch_size = 1000
    config.checkpoint_every_epochs = 10.0
    config.keep_checkpoints = 1
    return with_argument(config, arg)
