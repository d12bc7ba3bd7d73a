"""Classify images: python predict.py IMAGE... Needs jax; and Pillow, where images are files."""

import json
import pathlib
import sys

import numpy as np
from jax import export

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE / "lib"))  # flatbuffers, for jax.export, where it is not installed
ABOUT = json.loads((HERE / "predictor.json").read_text())


def load():
    """Return f(images uint8 [N, side, side, channels]) -> (labels [N], cosines [N, classes])."""
    content = (HERE / "weights.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    weights = {}
    for name, entry in json.loads(content[8:start]).items():
        first, last = entry["data_offsets"]
        rows = np.frombuffer(content[start + first : start + last], np.float32)
        weights[name] = rows.reshape(entry["shape"])
    program = export.deserialize(bytearray((HERE / "predictor.stablehlo").read_bytes()))
    return lambda images: [np.asarray(answer) for answer in program.call(weights, images)]


def read(path):
    """Return an image file as the predictor takes it: upright, its center square, uint8."""
    from PIL import Image, ImageOps

    about = ABOUT["preprocessing"]
    side, channels = about["side"], about["channels"]
    image = ImageOps.exif_transpose(Image.open(path))
    if image.has_transparency_data:  # on white
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB" if channels == 3 else "L")
    width, height = (side * length // min(image.size) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    image = image.resize((width, height), Image.Resampling[about["interpolation"].upper()])
    image = image.crop((left, top, left + side, top + side))
    return np.asarray(image).reshape(side, side, channels)


if __name__ == "__main__":
    if ABOUT["preprocessing"] is None:
        sys.exit("these are the classes of features: call load() with float32 [N, 1, 1, dims]")
    predict = load()
    for path in sys.argv[1:]:
        try:
            image = read(path)
        except OSError as error:
            sys.exit(f"{path} cannot be read as an image: {error}")
        labels, cosines = predict(image[None])
        name = ABOUT["class_names"][labels[0]]
        print(f"{path}: {name} {cosines[0, labels[0]]:+.3f}")
