"""A contact sheet of training images and their augmented versions.

hsproto augment --config=configs/digits.py --out=sheet.png
"""

import os
import warnings
from typing import Any

import jax
import numpy as np

from hsproto import cli
from hsproto.data import load as load_lib
from hsproto.data import loader
from hsproto.data import source as source_lib
from hsproto.data.augment import make_augment, make_preprocess
from hsproto.data.crops import RandomCrops
from hsproto.errors import UserError, visible


def contact_sheet(
    config: Any, out: str | os.PathLike[str], rows: int = 8, columns: int = 9
) -> None:
    """Write a picture of `rows` training images: as evaluation sees them, then augmented versions.

    The images are spread evenly over the training set and cropped where training would crop them.
    Normalization is undone for display.

    Raises:
        UserError: `out` cannot be written.
    """
    import matplotlib  # heavy, and the training step does not need it

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    source = load_lib.load_splits(config).train
    config = config.copy_and_resolve_references()
    config.crop_on = loader.crop_place(source, config)
    picked = np.linspace(0, len(source) - 1, rows).round().astype(int)
    images, labels = zip(*(source[int(i)] for i in picked), strict=True)
    images = np.stack(images)
    augment = jax.jit(make_augment(config))
    versions = [make_preprocess(config)(images)]
    for step, key in enumerate(jax.random.split(jax.random.key(config.seed), columns - 1)):
        if config.crop_on == "host":
            read = RandomCrops(source, config).read
            images = np.stack([read(int(i), step, j)[0] for j, i in enumerate(picked)])
        versions.append(augment(key, images))
    mean, std = source_lib.normalization(config)
    figure, axes = plt.subplots(
        rows, columns, squeeze=False, figsize=(1.2 * columns, 1.2 * rows), layout="compressed"
    )
    for j, version in enumerate(versions):
        pixels = np.clip(np.asarray(version) * np.asarray(std) + np.asarray(mean), 0, 1)
        axes[0, j].set_title("image" if j == 0 else f"view {j}", fontsize=8)
        for i, label in enumerate(labels):
            axis = axes[i, j]
            axis.imshow(pixels[i].squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if j == 0:
                axis.set_ylabel(visible(source.class_names[label]), fontsize=8, parse_math=False)
    try:
        with warnings.catch_warnings():
            # Class names in scripts that the font lacks are drawn as boxes.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(out, dpi=150)
    except (OSError, ValueError) as error:  # ValueError: an unknown suffix
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {out}: {reason}") from error
    finally:
        plt.close(figure)


def main(argv: list[str]) -> int:
    parser = cli.Parser(__doc__, prog="hsproto augment")
    parser.add_argument(
        "--out", type=cli.local_path, required=True, help="the picture to write, e.g. sheet.png"
    )
    args, config = parser.parse_with_config(argv)
    contact_sheet(config, args.out)
    print(os.path.abspath(args.out))
    return 0
