"""The paper's comparisons on a laptop: a conv net on 16-pixel images, a minute or two per run.

python launch/small_data.py --from=DIR --out=SMALL
hsproto train --workdir=runs/small --config=configs/small.py:data_dir=SMALL,loss=nonl

The first command makes small versions of the data sets (cifar10, cifar100, tinyimagenet100,
fashion_mnist): half the side, 3,000 training images. So few images, seen 50 times without crops,
are memorized, so that classes collapse at the end of training. All losses share all values; only
scl trains with its head and on two views with the paper's augmentation. The temperature is what the
paper recommends, 0.2 for few classes and 0.1 for many; batches of many classes are larger, to hold
most of them. `embedding=signed` can form a simplex, the paper's `pooled` cannot.

Results over losses, data sets and seeds: docs/results/small/README.md.
"""

from hsproto import recipes
from hsproto.config import argument_value, with_argument


def get_config(arg=None):
    dataset = argument_value(arg, "dataset", "cifar10")
    config = recipes.small(few_classes=dataset in ("cifar10", "fashion_mnist"))
    if dataset == "fashion_mnist":
        config.image_size, config.channels = 14, 1
    config.epochs = 50.0
    config.warmup_epochs = 2.0
    config.checkpoint_every_epochs = 50.0
    if argument_value(arg, "loss", config.loss) == "scl":
        recipes.add_scl_head_and_augmentation(config)
    else:
        config.crop_scale = (1.0, 1.0)
    return with_argument(config, arg)
