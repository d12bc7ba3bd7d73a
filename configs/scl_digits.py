"""Supervised contrastive learning on 1,797 real handwritten digits, on a laptop's CPU.

hsproto train --config=configs/scl_digits.py --workdir=runs/scl_digits
hsproto probe --workdir=runs/scl_digits --learning_rate=0.5

The first command trains the encoder with its head and classifies by fixed prototypes. The second
compares them with linear probing.

Expected, in less than a minute on two cores: test accuracy 0.992 by fixed prototypes, and within
0.003 of that by linear probes; collapsed classes (instance alignment 0.009 on the training set),
whose means have effective rank 7.7 of 9.
"""

from hsproto import recipes
from hsproto.config import with_argument


def get_config(arg=None):
    config = recipes.digits()
    config.jitter = (0.4, 0.4, 0.0, 0.0)  # gray images have neither saturation nor hue
    config.embedding = "pooled"
    config.projection = "mlp"
    config.projection_dim = 32
    config.loss = "scl"
    config.weight_decay = 1e-4
    return with_argument(config, arg)
