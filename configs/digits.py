"""NONL on 1,797 real handwritten digits, to Neural Collapse, on a laptop's CPU.

hsproto train --config=configs/digits.py --workdir=runs/digits

Expected, in less than a minute on two cores: test accuracy 0.992 (0.986 to 0.997 over seeds),
effective ranks of class means and prototypes above 8.99 of 9, mean cosine between prototypes
-0.111, weight alignment 0.003 on the training set.
"""

from hsproto import recipes
from hsproto.config import with_argument


def get_config(arg=None):
    return with_argument(recipes.digits(), arg)
