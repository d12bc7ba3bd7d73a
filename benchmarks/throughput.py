"""Training throughput against a plain PyTorch step on the same device, and the loss's share.

    python benchmarks/throughput.py [--cases=resnet18,resnet50] [--batch=512] [--out=t.json]

hsproto         the training step of `hsproto.train`: bfloat16 backbone, loss in float32, SGD
torch compiled  the same network, NormFace, SGD: channels-last, bfloat16 autocast, torch.compile
torch float32   the same, eager, in float32 and torch's default layout and precision settings

Cases: resnet18 with the CIFAR stem at 32 px and 100 classes, resnet50 at 224 px and 1000 classes.
All train on one device, JAX's default one, on a fixed batch of random uint8 images that lie on it.
With --augment=none nobody augments; with --augment=config hsproto does (crop and flip), torch does
not. Calls of --steps steps take turns and end by waiting for the device; a ratio is the median over
rounds. FLOPs are three times those of the forward pass, as XLA counts them. The loss's share is the
time of its value and gradient alone, at the step's shapes, over the time of the step.
"""

import argparse
import importlib.util
import os
import statistics

# torch's waiting threads would otherwise keep a core from whatever is timed next.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Both frameworks hold their memory at the same time.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")

import jax
import jax.numpy as jnp
import measuring
import programs

from hsproto.hardware import topologies
from hsproto.models import architecture
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib

CASES = {
    "resnet18": dict(stem="cifar", image_size=32, num_classes=100, batch_size=512),
    "resnet50": dict(stem="imagenet", image_size=224, num_classes=1000, batch_size=256),
}
ALONE = "loss alone"
COMPILED, EAGER = "torch compiled", "torch float32"


def peak(options):
    """Peak dense bfloat16 FLOP/s of the device, or None where it is not known."""
    if options.peak_tflops:
        return 1e12 * options.peak_tflops
    chip = topologies.chip_of(jax.devices()[0].device_kind)
    return chip and chip.bfloat16


def forward_flops(config):
    """FLOPs of the backbone's forward pass on one image."""
    model = model_lib.build(config, config.num_classes)
    image = (config.image_size, config.image_size, config.channels)
    variables = jax.eval_shape(lambda key: model_lib.init(model, key, image), jax.random.key(0))

    def forward(variables, images):
        return model_lib.forward(model, variables, images, train=False)[0].features

    images = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    return jax.jit(forward).lower(variables, images).cost_analysis()["flops"]


def settings(case, options):
    """The config keys of a case, those of the command line first."""
    values = CASES[case] | dict(backbone=case, dtype="bfloat16", loss=options.loss)
    values |= dict(width=options.width)
    for key, value in (("batch_size", options.batch), ("image_size", options.size)):
        values |= {key: value} if value else {}
    if options.augment == "none":
        values |= dict(crop_scale=(1.0, 1.0), flip=False)
    return values


def torch_calls(config, batch, options):
    """({name: (call, parameters)}, {name: why it is missing})."""
    both = [name for name in (COMPILED, EAGER) if name.split()[1] in options.against.split(",")]
    if not importlib.util.find_spec("torch"):
        return {}, dict.fromkeys(both, "torch is not installed")
    import torch
    import torch_step

    backend = jax.default_backend()
    if backend == "tpu" or (backend == "gpu" and not torch.cuda.is_available()):
        return {}, dict.fromkeys(both, f"torch has no {backend} here")
    torch.manual_seed(0)
    calls, missing, dims = {}, {}, architecture.feature_dim(config)
    for name in both:
        bfloat16 = name == COMPILED
        try:
            call, parameters = torch_step.caller(
                config, dims, batch, options.steps, bfloat16=bfloat16, compiled=bfloat16
            )
            call()
        except Exception as error:  # no compiler, no memory: the others can still be measured
            missing[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
            continue
        calls[name] = call, parameters
    return calls, missing


def measure(case, options):
    """Rows of the table for one case."""
    mesh = mesh_lib.make_mesh(jax.devices()[:1])
    values = settings(case, options)
    program, config = programs.train_step(mesh, **values)
    batch = jax.device_get(programs.images(config, mesh))
    dims = architecture.feature_dim(config)
    shapes = options.loss, config.batch_size, config.num_classes, dims
    arrays = programs.fill(programs.inputs(*shapes), config.num_classes)
    calls = {
        "hsproto": programs.step_caller(program, config, mesh, options.steps),
        ALONE: programs.caller(programs.loss(*shapes), arrays, options.steps),
    }
    others, missing = torch_calls(config, batch, options)
    params = jax.tree.leaves(programs.state_lib.abstract(config, mesh).params)
    for name, (call, parameters) in others.items():
        if parameters != sum(x.size for x in params):
            raise AssertionError(f"{name} trains another network: {parameters} parameters")
        calls[name] = call
    times = measuring.in_turns(calls, options.rounds)
    flops, top = 3 * forward_flops(config) * config.batch_size, peak(options)
    rows = []
    for name in ("hsproto", *others, *missing):
        row = {
            "network": f"{case}, {config.image_size} px, width {config.width}",
            "B": config.batch_size,
            "step": name,
            "ms per step": None,
            "images/s": None,
            "time / hsproto": None,
            "MFU, %": None,
            "loss, % of step": None,
            "not measured": missing.get(name),
        }
        if name in times:
            second = statistics.median(times[name]) / options.steps
            row |= {
                "ms per step": 1e3 * second,
                "images/s": config.batch_size / second,
                "time / hsproto": measuring.ratio(times, name, "hsproto"),
                "MFU, %": 100 * flops / second / top if top else None,
            }
        if name == "hsproto":
            row["loss, % of step"] = 100 * measuring.ratio(times, ALONE, name)
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="resnet18,resnet50")
    parser.add_argument("--batch", type=int, help="default: 512 for resnet18, 256 for resnet50")
    parser.add_argument("--size", type=int, help="pixels; default: the case's")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--loss", default="nonl", choices=("ntce", "nonl", "normface"))
    parser.add_argument("--augment", default="none", choices=("none", "config"))
    parser.add_argument("--steps", type=int, default=20, help="steps a call")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", default="compiled,float32", help="torch's steps, or nothing")
    parser.add_argument("--peak_tflops", type=float, help="dense bfloat16, if not known")
    parser.add_argument("--out", help="JSON file to write")
    options = parser.parse_args()
    cases = options.cases.split(",")
    if unknown := set(cases) - set(CASES):
        parser.error(f"--cases: {', '.join(sorted(unknown))}; known are {', '.join(CASES)}")
    report = measuring.environment("jaxlib", "flax", "torch") | {"rows": []}
    for case in cases:
        report["rows"] += measure(case, options)
        measuring.write(options.out, report)
    measuring.show(report["rows"])
    print({k: report[k] for k in ("command", "machine", "versions")})


if __name__ == "__main__":
    main()
