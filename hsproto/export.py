"""Write a run as a predictor that needs jax alone, for use where hsproto is not installed.

  hsproto export --workdir=runs/digits --out=exported
  python exported/predict.py photo.png

The folder holds:

  weights.safetensors   the network's weights, prototypes and bias
  predictor.stablehlo   network and preprocessing (jax.export), for cpu, cuda and tpu, any number of
                        images: (weights, uint8 [N, S, S, C]) -> (labels, cosines [N, K])
  predictor.json        class names, prototypes, the images' size and what is done to them, versions
  predict.py            how to load and call it, to run or to copy
  lib/                  flatbuffers, with which jax.export reads

The workdir may also be a folder that Run.save wrote. An earlier export at --out is replaced; a
folder that holds anything else is refused.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["export", *sys.argv[1:]])

import importlib.metadata
import os
import pathlib
import shlex
import shutil
import tempfile

import flatbuffers
import jax
import numpy as np
import safetensors.numpy
from jax import export as jax_export

from hsproto import inference
from hsproto.data.source import data_spec, normalization
from hsproto.errors import UserError
from hsproto.runs.files import to_json

PLATFORMS = ("cpu", "cuda", "tpu")
_FILES = ("weights.safetensors", "predictor.stablehlo", "predictor.json", "predict.py")
_LIBRARY = "lib"  # with the package that jax.export reads with, which jax does not bring


def main(argv: list[str]) -> int:
    parser = cli.Parser(__doc__, prog="hsproto export")
    cli.add_run_flags(parser)
    parser.add_argument(
        "--out", type=cli.local_path, required=True, metavar="DIR", help="the folder to write"
    )
    args = parser.parse_args(argv)
    _check_out(args.out)
    run = inference.load(args.workdir, args.checkpoint)
    export(run, args.out)
    script, dim = os.path.join(args.out, "predict.py"), run.config.channels
    use = f"try: python {shlex.quote(script)} IMAGE..."
    if run.config.source == "features":
        use = f"load() in {script} gives a function of features, float32 [N, 1, 1, {dim}]"
    print(f"{args.out}: {len(run.class_names)} classes; {use}")
    return 0


def export(run: inference.Run, out: str) -> None:
    """Write a run as a predictor to the folder `out`, whole or not at all.

    Raises:
        UserError: `out` is there and no export, or cannot be written.
    """
    _check_out(out)
    place = pathlib.Path(os.path.abspath(out))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as aside:
            made = pathlib.Path(aside) / "made"
            made.mkdir()
            _write(run, made)
            if place.is_dir():
                place.rename(pathlib.Path(aside) / "earlier")
            made.rename(place)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from None


def _check_out(out):
    if not os.path.lexists(out):
        return
    if not os.path.isdir(out):
        raise UserError(f"--out={out} is no folder: give another place")
    present = set(os.listdir(out)) - {"__pycache__"}
    if present and not (set(_FILES) <= present <= {*_FILES, _LIBRARY}):
        raise UserError(f"--out={out} holds something else than an export: give another folder")


def _write(run, folder):
    weights, program = predictor(run)
    (folder / "weights.safetensors").write_bytes(safetensors.numpy.save(weights))
    (folder / "predictor.stablehlo").write_bytes(program.serialize())
    (folder / "predictor.json").write_text(to_json(_about(run), indent=1))
    shutil.copy(pathlib.Path(__file__).parent / "templates/predict.py", folder)
    package = pathlib.Path(flatbuffers.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, folder / _LIBRARY / "flatbuffers", ignore=ignored)


def predictor(run: inference.Run) -> tuple[dict[str, np.ndarray], jax_export.Exported]:
    """Return (weights by name, the program that takes them and images)."""
    weights, call = run.program()
    spec = data_spec(run.config)
    (rows,) = jax_export.symbolic_shape("n")
    dtype = np.float32 if spec.source == "features" else np.uint8
    images = jax.ShapeDtypeStruct((rows, spec.side, spec.side, spec.channels), dtype)
    shapes = {name: jax.ShapeDtypeStruct(w.shape, w.dtype) for name, w in weights.items()}
    return weights, jax_export.export(jax.jit(call), platforms=PLATFORMS)(shapes, images)


def _preprocessing(config):
    """What is done to images, before the predictor and in it; None for features."""
    spec, (mean, std) = data_spec(config), normalization(config)
    if spec.source == "features":
        return None
    return {
        "side": spec.side,
        "channels": spec.channels,
        "interpolation": spec.resample.name.lower(),
        "resize": "the short side to `side`, with antialiasing; the center square",
        "inside the predictor": {
            "center_crop": config.image_size,
            "scale": 1 / 255,
            "mean": mean,
            "std": std,
        },
    }


def _about(run):
    return {
        "class_names": run.class_names,
        "prototypes": np.asarray(run.prototypes).tolist(),
        "preprocessing": _preprocessing(run.config),
        "loss": run.config.loss,
        "step": run.step,
        "metrics": run.metrics,
        "platforms": PLATFORMS,
        "versions": {name: importlib.metadata.version(name) for name in ("hsproto", "jax")},
    }
