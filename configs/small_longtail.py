"""Long tails on a laptop: the network of configs/small.py on CIFAR-10 or CIFAR-100, 16 pixels wide.

python launch/small_data.py --from=DIR --out=SMALL
hsproto train --workdir=runs/small_longtail \
  --config=configs/small_longtail.py:data_dir=SMALL/whole,loss=nonl,imbalance_factor=0.01

Class sizes are those of the paper's tails, 12,406 images in all for CIFAR-10 at 0.01. Values are
those of configs/small.py except for epochs and crops; `loss`, `imbalance_factor`, `subset_seed` and
the methods for long tails are as in configs/longtail.py. Results: docs/results/small/README.md.
"""

from hsproto import recipes
from hsproto.config import argument_value, with_argument


def get_config(arg=None):
    config = recipes.small(few_classes=argument_value(arg, "dataset", "cifar10") == "cifar10")
    config.imbalance_factor = 0.01
    config.crop_scale = (0.5, 1.0)
    config.epochs = 10.0
    config.warmup_epochs = 1.0
    config.checkpoint_every_epochs = 10.0
    return with_argument(config, arg)
