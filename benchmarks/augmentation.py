"""Augmentation's share of a training step, on this machine.

python benchmarks/augmentation.py [--backbone=resnet18 --batch=64 --rounds=5] [--out=a.json]

The training step of CIFAR-10's recipe, and augmentations of its batch alone, in turns; a share is
the median over rounds of the time of the latter over that of the step.
"""

import argparse

import jax
import measuring
import programs

from hsproto import recipes
from hsproto.data import augment
from hsproto.parallel import mesh as mesh_lib

CASES = {
    "crop, flip": {},
    "crop, flip, jitter, gray": {"jitter": recipes.JITTER, "grayscale_probability": 0.2},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out")
    options = parser.parse_args()
    mesh = mesh_lib.make_mesh(jax.devices()[:1])
    network = {key: getattr(options, key) for key in ("backbone", "width")}
    step, config = programs.train_step(mesh, batch_size=options.batch, **network)
    calls = {"step": programs.step_caller(step, config, mesh)}
    images, key = programs.images(config, mesh)["image"], jax.random.key(0)
    for name, values in CASES.items():
        config.update(values)
        calls[name] = programs.caller(jax.jit(augment.make_augment(config)), (key, images))
    times = measuring.in_turns(calls, options.rounds)
    rows = [{"augmentation": name, "share": measuring.ratio(times, name, "step")} for name in CASES]
    measuring.show(rows)
    report = measuring.environment("jax", "jaxlib", "flax") | {"rows": rows}
    measuring.write(options.out, report)


if __name__ == "__main__":
    main()
