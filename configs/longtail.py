"""CIFAR-100-LT and CIFAR-10-LT, the paper's long tails: its CIFAR protocol on a part of the images.

hsproto train --workdir=runs/cifar100_lt \
  --config=configs/longtail.py:loss=nonl,dataset=cifar100,imbalance_factor=0.01

`imbalance_factor` is the rarest class's share of the commonest one's images, 0.1, 0.02 or 0.01, and
`subset_seed` picks which images stay; the test set is whole. Beside it: `sampler=classes` (every
class as often as any other), with loss=cross_entropy or normface `logit_adjustment=1`, and with
loss=dot_regression `balanced_lengths=true`, its authors' recipe for long tails.
Data as in configs/cifar.py; an epoch is that of the part.

The paper's test accuracy at 0.1 / 0.02 / 0.01, CIFAR-10-LT then CIFAR-100-LT:
cross_entropy 88.1 / 76.8 / 70.2 and 55.5 / 41.5 / 37.4, dot_regression 88.0 / 77.8 / 71.3 and
54.4 / 40.6 / 36.2, normface 88.0 / 79.0 / 74.3 and 54.6 / 40.1 / 35.9, ntce 88.8 / 80.8 / 77.3 and
56.8 / 43.7 / 39.0, nonl 89.2 / 80.5 / 76.3 and 57.4 / 44.7 / 40.0.
"""

from hsproto.config import default, with_argument


def get_config(arg=None):
    config = default()
    config.dataset = "cifar100"
    config.source = "tfds"
    config.imbalance_factor = 0.01
    config.image_size = 32

    config.backbone = "resnet18"
    config.stem = "cifar"
    config.embedding = "pooled"

    config.loss = "nonl"
    config.temperature = 0.1
    config.batch_size = 512
    config.epochs = 1000.0
    config.base_lr = 0.1  # 0.2 at batch 512

    config.eval_every_epochs = 50.0
    config.eval_batch_size = 2000
    config.checkpoint_every_epochs = 25.0
    config.log_every = 50
    return with_argument(config, arg)
