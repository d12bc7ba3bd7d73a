"""Digits in three dimensions: features and prototypes on a sphere that can be drawn.

hsproto train --config=configs/digits_sphere.py --workdir=runs/sphere
hsproto train --workdir=runs/sphere10 \
  --config=configs/digits_sphere.py:num_classes=10,loss=cross_entropy

Three dimensions hold a simplex of four classes, a tetrahedron: `num_classes=4`, the default, takes
the digits 0 to 3, `num_classes=10` all of them, `class_list=1/4/7/9` any. During training, forty
snapshots of the test images are written (`hsproto.runs.snapshots`); the report shows them on the
sphere.

Expected, in less than a minute on two cores, for nonl and cross_entropy:

- Four digits: test accuracy 0.993 and 0.979 (143 and 141 of 144 images); cosines between prototypes
  -0.343 to -0.325 (a tetrahedron: -1/3) and -0.87 to -0.12; mean squared distance within a class
  0.004 and 0.062 on the training set.
- Ten digits, which have no simplex in three dimensions: test accuracy 0.986 and 0.989; angle from
  each prototype to its nearest neighbor 62 to 68 and 55 to 71 degrees (ten points cannot all be
  more than 66 apart); distance within a class 0.006 and 0.053.
"""

from hsproto import recipes
from hsproto.config import argument_value, with_argument


def get_config(arg=None):
    config = recipes.digits()
    num_classes = argument_value(arg, "num_classes", 4)
    # All ten need no list. Impossible values are rejected as for any other data set.
    if num_classes not in (0, 10):
        config.class_list = "/".join(map(str, range(num_classes)))
    config.embedding_dim = 3
    config.temperature = 0.2
    config.sampler = "classes"  # a class with more images in a batch takes more of the sphere
    config.eval_every_epochs = 2.0
    return with_argument(config, arg)
