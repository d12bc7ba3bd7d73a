"""Digits in three dimensions: features and prototypes on the sphere itself, to look at.

hsproto train --config=configs/digits_sphere.py --workdir=runs/sphere
hsproto train --workdir=runs/sphere10 \
  --config=configs/digits_sphere.py:num_classes=10,loss=cross_entropy

Three dimensions hold a simplex of four classes, a tetrahedron: `num_classes=4`, the default, takes
the digits 0 to 3, `num_classes=10` all of them, `class_list=1/4/7/9` any. Forty snapshots of the
test images (`hsproto.runs.snapshots`) are taken on the way; the report shows them on the sphere.

To expect, after less than a minute on two cores, of nonl and of cross_entropy:

- four digits: test accuracy 0.993 and 0.979 (143 and 141 of 144 images); cosines between prototypes
  -0.343 to -0.325, a tetrahedron's being -1/3, against -0.87 to -0.12; mean squared distance within
  a class 0.004 and 0.062 on the training set.
- ten digits, which have no simplex there: test accuracy 0.986 and 0.989; from each prototype to the
  nearest other 62 to 68 degrees, against 55 to 71 (ten points cannot all be more than 66 apart);
  distance within a class 0.006 and 0.053.
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
