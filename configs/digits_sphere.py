"""Digits in three dimensions: features and prototypes on the sphere itself, to look at.

python -m hsproto.train --config=configs/digits_sphere.py --workdir=runs/sphere
"""

from hsproto.config import default, given, with_argument


def get_config(arg=None):
    config = default()
    config.dataset = config.source = "digits"
    num_classes = given(arg, "num_classes", 4)
    # All of them need no list; what cannot be is refused as it is with any other data.
    if num_classes not in (0, 10):
        config.class_list = "/".join(map(str, range(num_classes)))
    config.image_size = 8
    config.channels = 1
    config.flip = False  # a mirrored 2 is not a 2
    config.crop_scale = (0.7, 1.0)

    config.backbone = "convnet"
    config.width = 32
    config.embedding = "signed"
    config.embedding_dim = 3

    config.loss = "nonl"
    config.temperature = 0.2
    config.sampler = "classes"  # where one has more images in a batch it takes more of the sphere
    config.batch_size = 64
    config.epochs = 80.0
    config.base_lr = 0.2
    config.warmup_epochs = 2.0
    config.weight_decay = 5e-4

    config.eval_every_epochs = 2.0
    config.eval_batch_size = 480
    config.checkpoint_every_epochs = 10.0
    return with_argument(config, arg)
