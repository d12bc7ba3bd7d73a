"""TFDS sets prepared from images at hand as ArrayRecord, without TensorFlow and any download."""

import pytest
from PIL import Image

# The sets of TFDS itself, whose own version, features and description theirs are.
OFFICIAL = ("cifar10", "cifar100")


def prepare(root, name, splits, features=None, names=None):
    """Prepares {split: records} in `root` as the set `name`; returns `root`.

    Under an official name with the set's own features, whose classes `names` gives as its original
    files would; else with `features`. Images are Pillow's, which are stored as lossless PNG.
    """
    tfds = pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.core import registered

    tfds.disable_progress_bar()
    base = tfds.builder_cls(name) if name in OFFICIAL else tfds.core.GeneratorBasedBuilder
    set_name = name

    with registered.skip_registration():

        class Prepared(base):
            name = set_name
            VERSION = getattr(base, "VERSION", None) or tfds.core.Version("1.0.0")

            def _info(self):
                if features is None:
                    return super()._info()
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                if names is not None:
                    self.info.features["label"].names = list(names)
                return {split: enumerate(records) for split, records in splits.items()}

            def _generate_examples(self):
                raise NotImplementedError

    Prepared(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def prepare_cifar(root, name, arrays):
    """Prepares arrays, as source=arrays has them, as TFDS's own cifar10 or cifar100."""

    def records(split):
        pairs = zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
        for i, (image, label) in enumerate(pairs):
            record = {"id": f"{split}_{i:05d}", "image": Image.fromarray(image), "label": label}
            # The copies at hand do not tell the superclass.
            yield record | ({"coarse_label": -1} if name == "cifar100" else {})

    splits = {split: records(split) for split in ("train", "test")}
    return prepare(root, name, splits, names=arrays["class_names"].tolist())
