"""The paper's comparisons at a desk: a small conv net on 16-pixel images, a minute or two a run.

python launch/small_data.py --from=DIR --out=SMALL
hsproto train --workdir=runs/small --config=configs/small.py:data_dir=SMALL,loss=nonl

`dataset` is cifar10, cifar100, tinyimagenet100 or fashion_mnist, of which the first command makes
small ones: half the side, 3,000 training images. So few, seen 50 times without crops, are learnt
by heart: collapse is a matter of the end of training. All losses share all values; only scl trains
with its head and on two views by the paper's augmentation. The temperature is what the paper
recommends, 0.2 for few classes and 0.1 for many; a batch of many classes is larger, so that it
holds most of them. `embedding=signed` can form a simplex, the paper's `pooled` cannot.

What came out, over losses, data sets and seeds: docs/results/README.md.
"""

from hsproto.config import default, given, with_argument


def get_config(arg=None):
    config = default()
    config.dataset = "cifar10"
    config.source = "arrays"
    config.image_size = 16
    dataset = given(arg, "dataset", config.dataset)
    if dataset == "fashion_mnist":
        config.image_size, config.channels = 14, 1

    config.backbone = "convnet_wide"
    config.width = 32
    config.embedding = "pooled"

    config.loss = "nonl"
    few_classes = dataset in ("cifar10", "fashion_mnist")
    config.temperature = 0.2 if few_classes else 0.1
    config.batch_size = 64 if few_classes else 256
    config.epochs = 50.0
    config.base_lr = 0.8  # 0.2 at batch 64, 0.8 at 256
    config.warmup_epochs = 2.0
    config.crop_scale = (1.0, 1.0)
    if given(arg, "loss", config.loss) == "scl":
        config.projection = "mlp"
        config.crop_scale = (0.2, 1.0)
        config.jitter = (0.4, 0.4, 0.4, 0.1)
        config.grayscale_probability = 0.2

    config.eval_every_epochs = 5.0
    config.eval_batch_size = 1000
    config.checkpoint_every_epochs = 50.0
    config.log_every = 10
    config.keep_checkpoints = 1
    return with_argument(config, arg)
