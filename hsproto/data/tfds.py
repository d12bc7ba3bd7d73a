"""Prepared TFDS sets as sources of labelled images, without TensorFlow."""

import functools
import io

import numpy as np

from hsproto.data import decode
from hsproto.data.source import Splits, existing_data_dir, load_size
from hsproto.errors import UserError, one_line

_SPLITS = ("train", "test", "validation")


class TfdsSource(decode.EncodedSource):
    """A prepared TFDS data set."""

    def __init__(self, records, class_names, size, channels, name):
        self.class_names = tuple(class_names)
        self._records, self._name = records, name
        self._size, self._channels = size, channels

    def __len__(self):
        return len(self._records)

    def picture(self, i):
        record = self._records[i]
        name = f"{self._name}[{i}]"
        image = decode.picture(io.BytesIO(record["image"]), self._channels, name)
        label = int(record["label"])
        if not 0 <= label < len(self.class_names):
            raise UserError(f"{name} has label {label}, outside 0..{len(self.class_names) - 1}")
        return image, label

    @functools.cached_property
    def labels(self):
        """All labels, int32 [N]; reads every record once."""
        return np.array([record["label"] for record in self._records], np.int32)

    def is_labelled(self):
        """Whether the labels are public: TFDS writes -1 where they are not (ImageNet's test)."""
        return int(self._records[0]["label"]) >= 0


class MultiLabelSource(TfdsSource):
    """A prepared TFDS data set with any number of labels an image: Pascal VOC."""

    def picture(self, i):
        name = f"{self._name}[{i}]"
        image = decode.picture(io.BytesIO(self._records[i]["image"]), self._channels, name)
        return image, self.labels[i]

    @functools.cached_property
    def labels(self):
        """int8 [N, K]: 1 where the class is in the image, 0 where not.

        -1 where it is there but all that is seen of it is marked as difficult: there it counts
        neither way, as in VOC's own evaluation.
        """
        found = np.zeros((len(self), len(self.class_names)), np.int8)
        for row, record in zip(found, self._records, strict=True):
            row[np.asarray(record["labels"], int)] = 1
            if "labels_no_difficult" in record:
                difficult = set(record["labels"]) - set(record["labels_no_difficult"])
                row[np.array(sorted(difficult), int)] = -1
        return found

    def is_labelled(self):
        return bool(np.any(self.labels == 1))


def splits(name, data_dir, size, channels, multilabel=False):
    """{split: source} of the labelled splits of a TFDS set: train, and test or validation or both.

    The set `name` is prepared in the folder `data_dir` (None: TFDS's own) as ArrayRecord, which is
    read without TensorFlow. Images become squares of side `size` with `channels`; `multilabel`:
    they have any number of labels. Raises UserError, with the way out, where the set is not
    prepared, has no random access, or holds no labelled images.
    """
    kind, label_key = (MultiLabelSource, "labels") if multilabel else (TfdsSource, "label")
    import tensorflow_datasets as tfds  # optional, and heavy

    place = data_dir or "~/tensorflow_datasets"
    way_out = (
        "prepare it once with: pip install tensorflow-cpu && tfds build "
        f"{name} --file_format=array_record --data_dir={place}"
    )
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (ValueError, AssertionError) as error:  # no such name; no such version or config
        reason = one_line(error).split(" Available datasets")[0]
        raise UserError(
            f"config key dataset={name!r} is neither in {place} nor known to TFDS: {reason}"
        ) from error
    known, features = builder.info.splits, builder.info.features
    if not known:
        raise UserError(f"TFDS set {name!r} is not prepared in {place}: {way_out}")
    # Pillow decodes `image` as it does for folders; other pictures (masks) are never decoded.
    pictures = [key for key in features if isinstance(features[key], tfds.features.Image)]
    if "image" not in pictures or label_key not in features:
        raise UserError(
            f"TFDS set {name!r} needs the features image and {label_key}; "
            f"it has {', '.join(features)}"
        )
    label = features[label_key].feature if multilabel else features[label_key]
    names = label.names or [str(i) for i in range(label.num_classes)]

    def open_split(split):
        records = tfds.data_source(
            name,
            split=split,
            data_dir=data_dir,
            download=False,
            decoders=dict.fromkeys(pictures, tfds.decode.SkipDecoding()),
        )
        return kind(records, names, size, channels, f"{name}:{split}")

    try:
        found = {split: open_split(split) for split in _SPLITS if split in known}
    except NotImplementedError as error:
        raise UserError(
            f"TFDS set {name!r} is prepared in {place} as {builder.info.file_format.value}, which "
            f"has no random access: delete that, or use another data_dir, and {way_out}"
        ) from error
    labelled = [split for split in found if found[split].is_labelled()]
    if labelled[:1] != ["train"] or len(labelled) < 2:
        raise UserError(
            f"TFDS set {name!r} needs train and test (or validation) splits with labels; "
            f"it has {', '.join(known)}"
        )
    return {split: found[split] for split in labelled}


def load_tfds(config):
    """The test split is `test`, or `validation` where there is none or its labels are hidden."""
    found = tfds_splits(config)
    return Splits(found["train"], found["test" if "test" in found else "validation"])


def tfds_splits(config, multilabel=False):
    """{split: source} of the labelled splits of a TFDS set, as `splits`."""
    place = str(existing_data_dir(config)) if config.data_dir else None
    return splits(config.dataset, place, load_size(config), config.channels, multilabel)
