"""NONL on 1,797 real handwritten digits, to Neural Collapse, on a laptop's CPU.

hsproto train --config=configs/digits.py --workdir=runs/digits

To expect, after less than a minute on two cores: test accuracy 0.992 (0.986 to 0.997 over seeds),
effective ranks of class means and prototypes above 8.99 of 9, mean cosine between prototypes
-0.111, weight alignment 0.003 on the training set.
"""

from hsproto.config import default, with_argument


def get_config(arg=None):
    config = default()
    config.dataset = config.source = "digits"
    config.image_size = 8
    config.channels = 1
    config.flip = False  # a mirrored 2 is not a 2
    config.crop_scale = (0.7, 1.0)

    config.backbone = "convnet"
    config.width = 32
    config.embedding = "signed"

    config.loss = "nonl"
    config.temperature = 0.1
    config.batch_size = 64
    config.epochs = 80.0
    config.base_lr = 0.2
    config.warmup_epochs = 2.0
    config.weight_decay = 5e-4

    config.eval_every_epochs = 8.0
    config.eval_batch_size = 480
    config.checkpoint_every_epochs = 10.0
    return with_argument(config, arg)
