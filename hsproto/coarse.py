"""Classes put together into groups, to train on those: CIFAR-100's 20 superclasses.

Full collapse on groups would lose the classes within them. Whether it does is asked from coarse to
fine: train on the groups, then look in the frozen features for the classes.

  python -m hsproto.train --workdir=runs/coarse \\
    --config=configs/cifar.py:dataset=cifar100,class_groups=cifar100_coarse
  python -m hsproto.transfer  --workdir=runs/coarse --datasets=cifar100
  python -m hsproto.retrieval --workdir=runs/coarse --labels=original

The second command fits a linear classifier of the 100 classes to the encoder's features, the third
asks whether the nearest images are of the same one of the 100. Other commands, `evaluate` too,
measure by the groups that the run was trained on. Where the set is an npz, `transfer` is told so:
--source=arrays --data_dir=DIR.

The groups are those of Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images",
named as in the files of the set.
"""

import numpy as np

from hsproto import subsets
from hsproto.errors import UserError

GROUPS = {
    "cifar100_coarse": {
        "aquatic_mammals": "beaver dolphin otter seal whale",
        "fish": "aquarium_fish flatfish ray shark trout",
        "flowers": "orchid poppy rose sunflower tulip",
        "food_containers": "bottle bowl can cup plate",
        "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
        "household_electrical_devices": "clock keyboard lamp telephone television",
        "household_furniture": "bed chair couch table wardrobe",
        "insects": "bee beetle butterfly caterpillar cockroach",
        "large_carnivores": "bear leopard lion tiger wolf",
        "large_man-made_outdoor_things": "bridge castle house road skyscraper",
        "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
        "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
        "medium_mammals": "fox porcupine possum raccoon skunk",
        "non-insect_invertebrates": "crab lobster snail spider worm",
        "people": "baby boy girl man woman",
        "reptiles": "crocodile dinosaur lizard snake turtle",
        "small_mammals": "hamster mouse rabbit shrew squirrel",
        "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
        "vehicles_1": "bicycle bus motorcycle pickup_truck train",
        "vehicles_2": "lawn_mower rocket streetcar tank tractor",
    },
}


def members(name):
    """{group: tuple of its classes} of the grouping `name`, groups in the order of their labels."""
    return {group: tuple(classes.split()) for group, classes in GROUPS[name].items()}


def grouped(source, name):
    """All images of a source, in order, labelled by the groups of `name` that their classes are in.

    Reads the labels of all images; of a TFDS set that means every record, once.
    Raises UserError where the source's classes are not exactly those that are grouped.
    """
    groups = members(name)
    group_of = {one: label for label, classes in enumerate(groups.values()) for one in classes}
    _check_classes(source.class_names, group_of, name)
    numbers = np.array([group_of[one] for one in source.class_names], np.int32)
    return subsets.relabelled(source, numbers[np.asarray(source.labels)], tuple(groups))


def _check_classes(class_names, expected, name):
    missing = sorted(set(expected) - set(class_names))
    foreign = sorted(set(class_names) - set(expected))
    if missing or foreign or len(class_names) != len(expected):
        found = [f"lack {one!r}" for one in missing[:1]] + [f"have {one!r}" for one in foreign[:1]]
        raise UserError(
            f"config key class_groups={name!r}: the data must have exactly the {len(expected)} "
            f"classes that it groups, but {' and '.join(found) or 'name one twice'}: take the data "
            "set that it is named for, or leave class_groups empty"
        )
