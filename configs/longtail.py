"""The paper's long tails, CIFAR-100-LT and CIFAR-10-LT: its CIFAR protocol on a subset.

hsproto train --workdir=runs/cifar100_lt \
  --config=configs/longtail.py:loss=nonl,dataset=cifar100,imbalance_factor=0.01

`imbalance_factor` is the size of the rarest class over that of the most frequent one, 0.1, 0.02 or
0.01; `subset_seed` selects the images; the test set is complete. Methods for long tails to compare
with: `sampler=classes` (all classes equally often), `logit_adjustment=1` with loss=cross_entropy
or normface, and `balanced_lengths=true` with loss=dot_regression, its authors' own.
Data as in configs/cifar.py; an epoch is one of the subset.

The paper's test accuracy at 0.1 / 0.02 / 0.01, CIFAR-10-LT then CIFAR-100-LT:
cross_entropy 88.1 / 76.8 / 70.2 and 55.5 / 41.5 / 37.4, dot_regression 88.0 / 77.8 / 71.3 and
54.4 / 40.6 / 36.2, normface 88.0 / 79.0 / 74.3 and 54.6 / 40.1 / 35.9, ntce 88.8 / 80.8 / 77.3 and
56.8 / 43.7 / 39.0, nonl 89.2 / 80.5 / 76.3 and 57.4 / 44.7 / 40.0.
"""

from hsproto import recipes
from hsproto.config import with_argument


def get_config(arg=None):
    config = recipes.cifar()
    config.dataset = "cifar100"
    config.imbalance_factor = 0.01
    config.eval_every_epochs = 50.0
    config.checkpoint_every_epochs = 25.0
    return with_argument(config, arg)
