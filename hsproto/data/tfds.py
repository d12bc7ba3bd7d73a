"""Prepared TFDS sets as sources of labeled images, without TensorFlow."""

import functools
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from hsproto.data import decode
from hsproto.data.source import DataSpec, Splits
from hsproto.errors import UserError, one_line

_SPLITS = ("train", "test", "validation")


class TfdsSource(decode.EncodedSource):
    """A split of a prepared TFDS data set, read as `spec` says.

    `name` is for messages; `release`, the set's full name with its version, identifies the images.
    """

    labels_at_hand = False

    def __init__(
        self,
        records: Any,
        class_names: Sequence[str],
        spec: DataSpec,
        name: str,
        release: str,
    ):
        self.class_names = tuple(class_names)
        self._records, self._name, self._release = records, name, release
        self._spec = spec

    def __len__(self) -> int:
        return len(self._records)

    def picture(self, i: int) -> tuple[Image.Image, int]:
        record = self._records[i]
        label = int(record["label"])
        if not 0 <= label < len(self.class_names):
            raise UserError(
                f"{self._name}[{i}] has label {label}, outside 0..{len(self.class_names) - 1}"
            )
        return self._decode(record, i), label

    def identity(self, rows: np.ndarray) -> Iterable[bytes]:
        yield self._release.encode()
        yield np.asarray(rows, "<i8").tobytes()

    def _decode(self, record, i):
        return decode.read_picture(
            io.BytesIO(record["image"]), self._spec.channels, f"{self._name}[{i}]"
        )

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """All labels, int32 [N]; reads every record once."""
        return np.array([record["label"] for record in self._records], np.int32)

    def is_labeled(self) -> bool:
        """Return whether labels are public: TFDS writes -1 for hidden ones (ImageNet's test)."""
        return int(self._records[0]["label"]) >= 0


class MultiLabelSource(TfdsSource):
    """A split of a TFDS data set with any number of labels per image, e.g. Pascal VOC.

    The label of an image is its row of `labels`.
    """

    def picture(self, i: int) -> tuple[Image.Image, np.ndarray]:
        return self._decode(self._records[i], i), self.labels[i]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int8 [N, K]: 1 where the class is in the image, 0 where not.

        -1 where all instances of the class in the image are marked as difficult: there it counts
        neither way, as in VOC's own evaluation.
        """
        labels = np.zeros((len(self), len(self.class_names)), np.int8)
        for row, record in zip(labels, self._records, strict=True):
            row[np.asarray(record["labels"], int)] = 1
            if "labels_no_difficult" in record:
                difficult = set(record["labels"]) - set(record["labels_no_difficult"])
                row[np.array(sorted(difficult), int)] = -1
        return labels

    def is_labeled(self) -> bool:
        return bool(np.any(self.labels == 1))


def tfds_splits(spec: DataSpec, multilabel: bool = False) -> dict[str, TfdsSource]:
    """Open the labeled splits of a TFDS set: train, and test or validation or both.

    The set is prepared in the folder `spec.data_dir` (empty: TFDS's own) as ArrayRecord, which is
    read without TensorFlow. `multilabel`: images have any number of labels.

    Raises:
        UserError: the set is not prepared, has no random access, or holds no labeled images; with
            the way out.
    """
    kind, label_key = (MultiLabelSource, "labels") if multilabel else (TfdsSource, "label")
    name = spec.dataset
    data_dir = str(spec.existing_data_dir()) if spec.data_dir else None
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
    dtype = np.dtype(features["image"].np_dtype)
    if dtype not in (np.uint8, np.uint16):  # others are stored as the bytes of their numbers
        raise UserError(
            f"TFDS set {name!r} holds images of {dtype}, whose black and white are unknown: "
            "prepare it as uint8 or uint16"
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
        release = f"{builder.info.full_name}:{split}"
        return kind(records, names, spec, f"{name}:{split}", release)

    try:
        opened = {split: open_split(split) for split in _SPLITS if split in known}
    except NotImplementedError as error:
        raise UserError(
            f"TFDS set {name!r} is prepared in {place} as {builder.info.file_format.value}, which "
            f"has no random access: delete that, or use another data_dir, and {way_out}"
        ) from error
    labeled = {split: source for split, source in opened.items() if source.is_labeled()}
    if "train" not in labeled or len(labeled) < 2:
        raise UserError(
            f"TFDS set {name!r} needs train and test (or validation) splits with labels; "
            f"it has {', '.join(known)}"
        )
    return labeled


def load_tfds(spec: DataSpec) -> Splits:
    """Open `train`, and `test`, or `validation` where that is missing or its labels are hidden."""
    splits = tfds_splits(spec)
    return Splits(splits["train"], splits["test" if "test" in splits else "validation"])
