"""Which classes a data set is cut down to or grouped into: ImageNet-100, CIFAR-100's superclasses.

The config key `class_list` keeps some of the classes of a data set: those of one of the two lists
that are called ImageNet-100, by WordNet id, or any others by name.

The key `class_groups` makes groups of classes the labels: CIFAR-100's 20 superclasses. Full
collapse on groups would lose the classes within them. Coarse-to-fine transfer asks whether it does:
train on the groups, then look for the classes in the frozen features.

  hsproto train --workdir=runs/coarse \\
    --config=configs/cifar.py:dataset=cifar100,class_groups=cifar100_coarse
  hsproto transfer  --workdir=runs/coarse --datasets=cifar100
  hsproto retrieval --workdir=runs/coarse --labels=original

The second command fits a linear classifier of the 100 classes to the encoder's features, the third
asks whether the nearest images belong to the same one of the 100. Other commands, `evaluate` too,
measure by the groups that the run was trained on. For a set stored as npz, `transfer` needs
--source=arrays --data_dir=DIR.

The groups are those of Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images",
named as in the files of the set.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from hsproto.data import subsets
from hsproto.data.source import Source
from hsproto.errors import UserError

CLASS_GROUPS = {
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


def group_members(name: str) -> dict[str, tuple[str, ...]]:
    """Return {group: its classes} of the grouping `name`, groups in the order of their labels."""
    return {group: tuple(classes.split()) for group, classes in CLASS_GROUPS[name].items()}


def group(source: Source, name: str) -> Source:
    """Return all images of a source, labeled by the groups of `name` that their classes are in.

    Reads the labels of all images; of a TFDS set that means every record, once.

    Raises:
        UserError: the classes of the source are not exactly those that are grouped.
    """
    members = group_members(name)
    group_of = {one: label for label, classes in enumerate(members.values()) for one in classes}
    _check_classes(source.class_names, group_of, name)
    labels_of_classes = np.array([group_of[one] for one in source.class_names], np.int32)
    return subsets.relabeled(source, labels_of_classes[np.asarray(source.labels)], tuple(members))


def _check_classes(class_names, expected, name):
    missing = sorted(set(expected) - set(class_names))
    foreign = sorted(set(class_names) - set(expected))
    if missing or foreign or len(class_names) != len(expected):
        wrong = [f"lack {one!r}" for one in missing[:1]] + [f"have {one!r}" for one in foreign[:1]]
        raise UserError(
            f"config key class_groups={name!r}: the data must have exactly the {len(expected)} "
            f"classes that it groups, but {' and '.join(wrong) or 'name one twice'}: take the data "
            "set that it is named for, or leave class_groups empty"
        )


IMAGENET100_LISTS = {
    "imagenet100_cmc": """
    n01558993 n01692333 n01729322 n01735189 n01749939 n01773797 n01820546 n01855672 n01978455
    n01980166 n01983481 n02009229 n02018207 n02085620 n02086240 n02086910 n02087046 n02089867
    n02089973 n02090622 n02091831 n02093428 n02099849 n02100583 n02104029 n02105505 n02106550
    n02107142 n02108089 n02109047 n02113799 n02113978 n02114855 n02116738 n02119022 n02123045
    n02138441 n02172182 n02231487 n02259212 n02326432 n02396427 n02483362 n02488291 n02701002
    n02788148 n02804414 n02859443 n02869837 n02877765 n02974003 n03017168 n03032252 n03062245
    n03085013 n03259280 n03379051 n03424325 n03492542 n03494278 n03530642 n03584829 n03594734
    n03637318 n03642806 n03764736 n03775546 n03777754 n03785016 n03787032 n03794056 n03837869
    n03891251 n03903868 n03930630 n03947888 n04026417 n04067472 n04099969 n04111531 n04127249
    n04136333 n04229816 n04238763 n04336792 n04418357 n04429376 n04435653 n04485082 n04493381
    n04517823 n04589890 n04592741 n07714571 n07715103 n07753275 n07831146 n07836838 n13037406
    n13040303
    """,
    "imagenet100_kaggle": """
    n01440764 n01443537 n01484850 n01491361 n01494475 n01496331 n01498041 n01514668 n01514859
    n01531178 n01537544 n01560419 n01582220 n01592084 n01601694 n01608432 n01614925 n01622779
    n01630670 n01632458 n01632777 n01644900 n01664065 n01665541 n01667114 n01667778 n01675722
    n01677366 n01685808 n01687978 n01693334 n01695060 n01698640 n01728572 n01729322 n01729977
    n01734418 n01735189 n01739381 n01740131 n01742172 n01749939 n01751748 n01753488 n01755581
    n01756291 n01770081 n01770393 n01773157 n01773549 n01773797 n01774384 n01774750 n01775062
    n01776313 n01795545 n01796340 n01798484 n01806143 n01818515 n01819313 n01820546 n01824575
    n01828970 n01829413 n01833805 n01843383 n01847000 n01855672 n01860187 n01877812 n01883070
    n01910747 n01914609 n01924916 n01930112 n01943899 n01944390 n01950731 n01955084 n01968897
    n01978287 n01978455 n01984695 n01985128 n01986214 n02002556 n02006656 n02007558 n02011460
    n02012849 n02013706 n02018207 n02018795 n02027492 n02028035 n02037110 n02051845 n02058221
    n02077923
    """,
}

# `sort LIST | sha256sum` of a file with one id per line.
SHA256 = {
    "imagenet100_cmc": "5ee5db69d488bb799a286d8e181801c3d02798776c1ce9203e5450f64e086e07",
    "imagenet100_kaggle": "86bc5c0b92179267729b4b1efc27c5cf14a321fdc3a689b3cc217a5c492a8a6b",
}


def wnids(name: str) -> tuple[str, ...]:
    """Return the 100 WordNet ids of the list `name`, sorted."""
    return tuple(IMAGENET100_LISTS[name].split())


def digest(names: Iterable[str]) -> str:
    """Return the SHA-256 of class names, sorted, one per line, in hexadecimal."""
    return hashlib.sha256("".join(f"{n}\n" for n in sorted(names)).encode()).hexdigest()


def select(source: Source, class_list: str) -> Source:
    """Return the images of the classes that a `class_list` names, labeled in its order.

    Reads the labels of all images; of a TFDS set that means every record, once.

    Args:
        class_list: a name in IMAGENET100_LISTS, or names of classes as 0/1/7.

    Raises:
        UserError: the source lacks one of the classes.
    """
    if class_list in IMAGENET100_LISTS:
        return _select_imagenet100(source, class_list)
    names, known = class_list.split("/"), source.class_names
    known_ones = set(known)
    missing = [name for name in names if name not in known_ones]
    if missing:
        theirs = f"{', '.join(known[:10])}{' ...' if len(known) > 10 else ''}"
        raise UserError(
            f"config key class_list={class_list!r}: the data have no class {missing[0]!r}; theirs "
            f"are: {theirs}"
        )
    return subsets.of_classes(source, names)


def _select_imagenet100(source, name):
    names, known = wnids(name), set(source.class_names)
    missing = [wnid for wnid in names if wnid not in known]
    if missing:
        raise UserError(
            f"config key class_list={name!r}: the data lack {len(missing)} of its {len(names)} "
            f"classes, e.g. {missing[0]!r}: they must be ImageNet's, named by WordNet id; or take "
            "another list, or none"
        )
    if digest(source.class_names) == SHA256[name]:
        return source
    return subsets.of_classes(source, names)
