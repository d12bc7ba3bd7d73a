"""Own photos: EfficientNet-Lite0, trained on ImageNet, and a head that learns your classes.

hsproto train --config=configs/photos.py:data_dir=DIR --workdir=runs/photos

DIR holds a folder of images per class, or such folders below train and test. Without a test folder
a fifth of the images of each class is held out. Needs the extra `photos`. The backbone
stays frozen: it sees each image once, and the head is trained on its features within seconds. With
freeze_epochs below epochs the whole network learns afterwards, which takes an accelerator.

Expected for 10 classes of 60 photos, on two cores within three minutes: the accuracy of logistic
regression on the same features, less at most two points (docs/photos.md).
"""

import os

from hsproto.config import argument_value, default, with_argument
from hsproto.data.listing import class_folders, image_files


def get_config(arg=None):
    config = default()
    config.dataset = ""  # the folder's name
    config.source = "folder"
    config.image_size = 224
    data_dir = os.path.expanduser(argument_value(arg, "data_dir", ""))
    has_tests = _has_test_images(data_dir)
    config.validation_share = 0.0 if has_tests else 0.2
    config.sampler = "classes"  # rare classes count as much as common ones
    config.crop_scale = (0.5, 1.0)

    config.backbone = "efficientnet_lite0"
    config.init_from = "package:efficientnet_lite0"
    config.embedding = "signed"
    config.embedding_dim = 128

    config.loss = "normface"
    config.temperature = 0.1
    share = argument_value(arg, "validation_share", config.validation_share)
    config.batch_size = _batch_size(data_dir, share)
    config.epochs = config.freeze_epochs = 40.0
    config.base_lr = 0.01  # of the whole network, after the head's own phase
    config.lr_batch = 0

    config.eval_every_epochs = 5.0
    config.eval_batch_size = 64
    config.keep_checkpoints = 1
    config.keep_best = True
    return with_argument(config, arg)


def _batch_size(data_dir, validation_share):
    """32, or the largest power of two of which there are training photos."""
    train = os.path.join(data_dir, "train")
    folder = train if os.path.isdir(train) else data_dir
    count = 0
    for name in class_folders(folder) if os.path.isdir(folder) else ():
        photos = len(image_files(os.path.join(folder, name)))
        held_out = max(1, round(validation_share * photos)) if validation_share else 0
        count += max(min(photos, 1), photos - held_out)
    return 32 if not 0 < count < 32 else 1 << (count.bit_length() - 1)


def _has_test_images(data_dir):
    names = ("test", "val", "valid", "validation")
    below = os.path.isdir(os.path.join(data_dir, "train"))
    return below and any(os.path.isdir(os.path.join(data_dir, name)) for name in names)
