"""Sources of labelled images: `digits`, `arrays`, `folder`, `tfds`.

A source is any object with a length, random access and class names:

    len(source)          number of images
    source[i]            (image uint8 [H, W, C], label int in 0..K-1)
    source.class_names   tuple of K strings
    source.check()       optional: looks for bad input before images are streamed from it
    source.picture(i)    optional: (the whole picture as a Pillow image, label), for crops of it

All images of a source are squares of one size; pictures are as they were stored. `load(config)`
gives the training and the test source of a configuration. Whatever is wrong with the data raises
`UserError`: one line with the option or path, what is wrong with it, and the way out.
"""

from hsproto.data import class_lists, loader, long_tail, subsets
from hsproto.data import source as source_lib
from hsproto.data.arrays import load_arrays, load_digits
from hsproto.data.folder import load_folder
from hsproto.data.source import Splits
from hsproto.data.tfds import load_tfds
from hsproto.errors import UserError


def load_splits(config):
    """The training and the test source of `config.dataset`, read as `config.source` says.

    Of the classes those stay that `config.class_list` names, themselves or by a list of
    `hsproto.data.class_lists`; groups of them are the labels where `config.class_groups` says so,
    and of the training images those stay that `config.imbalance_factor` leaves
    (`hsproto.data.long_tail`).
    Raises UserError where the data are missing, malformed, or not what `config` says
    (`num_classes`, `channels`, and for arrays and digits the image size). Where `channels` or
    `image_size` is 0, arrays and digits may have any.
    """
    sources = {
        "arrays": load_arrays,
        "digits": load_digits,
        "folder": load_folder,
        "tfds": load_tfds,
    }
    if config.source not in sources:
        raise UserError(
            f"config key source={config.source!r} is unknown: use one of {', '.join(sources)}"
        )
    splits = sources[config.source](config)
    for name, source in zip(splits._fields, splits, strict=True):
        if len(source) == 0:
            raise UserError(f"the {name} split of {config.dataset!r} holds no image")
    if config.class_list:
        splits = Splits(*(_of_class_list(split, config.class_list) for split in splits))
    if config.class_groups:
        splits = Splits(*(class_lists.grouped(split, config.class_groups) for split in splits))
    found = len(splits.train.class_names)
    if config.num_classes and config.num_classes != found:
        raise UserError(
            f"config key num_classes={config.num_classes}, but {config.dataset!r} has {found} "
            f"classes: set num_classes={found}, or 0 to take it from the data"
        )
    if config.imbalance_factor < 1:
        rare = long_tail.subset(splits.train, config.imbalance_factor, config.subset_seed)
        splits = splits._replace(train=rare)
    return splits


def _of_class_list(source, class_list):
    if class_list in class_lists.IMAGENET100_LISTS:
        return class_lists.imagenet100_subset(source, class_list)
    names, known = class_list.split("/"), source.class_names
    missing = [name for name in names if name not in known]
    if missing:
        theirs = f"{', '.join(known[:10])}{' ...' if len(known) > 10 else ''}"
        raise UserError(
            f"config key class_list={class_list!r}: the data have no class {missing[0]!r}; theirs "
            f"are: {theirs}"
        )
    return subsets.of_classes(source, names)


def resolve(config, splits, earlier=None):
    """`config` with what the data decide filled in: classes, images, mean, std, place of the crop.

    `earlier`: the resolved config of a run that goes on. It keeps the place of its crop, wherever
    its images lie now. Raises UserError where the config says otherwise than the data.
    """
    found = {"num_classes": len(splits.train.class_names), "num_examples": len(splits.train)}
    for key, value in found.items():
        if config[key] not in (0, value):
            raise UserError(f"config key {key}={config[key]}, but the training data have {value}")
    config = config.copy_and_resolve_references()
    config.update(found)
    config.mean, config.std = source_lib.normalization(config)
    if config.crop_on == "auto":
        config.crop_on = earlier.crop_on if earlier else loader.crop_place(splits.train, config)
    return config
