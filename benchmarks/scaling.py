"""What global negatives cost: loss time, exchanged bytes, memory.

    python benchmarks/scaling.py [--only=loss,weak,memory,scl] [--json=scaling.json]

On simulated CPU devices (`JAX_NUM_CPU_DEVICES`, here 8 unless set). Bytes and memory are read from
the compiled programs and are exact; devices share the machine's cores, so times say what the work
costs and nothing of what links cost.

loss    value and gradient over batch sizes and numbers of classes, on one device; bytes on all
weak    1, 2, 4 and 8 devices, the rows a device constant
memory  temporaries of ResNet-18's training step by the number of microbatches, compiled only
scl     SCL in tiles against SCL dense, and gathering against a ring

A cell whose call would take longer than --max_seconds, by its FLOPs and the speed of a matrix
product here, or more than --max_gib of memory is left out of the timing, which is said.
"""

import argparse
import functools
import os
import statistics
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("NPROC", "32")  # see docs/troubleshooting.md

import jax
import jax.numpy as jnp
import measuring
import numpy as np
import programs
import ring

from hsproto.parallel import mesh as mesh_lib

SECTIONS = ("loss", "weak", "memory", "scl")
NAMES = ("ntce", "nonl", "normface", "scl")
HEAD_DIMS, BLOCK = 128, 1024  # of SCL
GIB = 2**30


def matmul_speed():
    """FLOP/s of a float32 matrix product on one device."""
    a = jnp.ones((1024, 1024))
    product = jax.jit(jnp.matmul)
    times = measuring.in_turns({"": lambda: product(a, a).block_until_ready()}, 5)[""]
    return 2 * 1024**3 / statistics.median(times)


def too_much(options, flops, size):
    """Why a cell is not timed, or None."""
    if (seconds := flops / options.speed) > options.max_seconds:
        return f"about {seconds:.0f} s a call"
    if size > options.max_gib * GIB:
        return f"{size / GIB:.1f} GiB"
    return None


def loss_section(options):
    mesh = mesh_lib.make_mesh()
    rows = []
    names = [name for name in options.losses if name != "scl"]
    cells = [(names, b, k, options.dims) for b in options.batches for k in options.classes]
    if "scl" in options.losses:
        cells += [(["scl"], b, 10, HEAD_DIMS) for b in options.batches]
    for names, batch, classes, dims in cells:
        calls, found = {}, {}
        for name in names:
            block = BLOCK if name == "scl" else None
            on_mesh = programs.loss(name, batch, classes, dims, mesh, block)
            own, gradient = programs.exchange(on_mesh, mesh, classes, dims)
            program = programs.loss(name, batch, classes, dims, block_size=block)
            columns = min(batch, classes) if name in ("ntce", "nonl") else classes
            flops = 8 * batch**2 * dims if name == "scl" else 6 * batch * columns * dims
            reason = too_much(options, flops, programs.needed(program))
            if not reason:
                arrays = programs.fill(programs.inputs(name, batch, classes, dims), classes)
                calls[name] = programs.caller(program, arrays)
            found[name] = own, gradient, reason
        times = measuring.in_turns(calls, options.rounds, slow_rounds=2)
        for name in names:
            own, gradient, reason = found[name]
            against = name in times and "normface" in times
            rows.append(
                {
                    "loss": name,
                    "B": batch,
                    "K": None if name == "scl" else classes,
                    "D": dims,
                    "ms": 1e3 * statistics.median(times[name]) if name in times else None,
                    "/ normface": measuring.ratio(times, name, "normface") if against else None,
                    "bytes exchanged": own,
                    "B D 4 / those": batch * dims * 4 / own,
                    "bytes of prototypes' gradient": gradient,
                    "not timed": reason,
                }
            )
        print(f"measured {batch}, {classes}, {dims}", file=sys.stderr, flush=True)
    return rows


def weak_section(options):
    classes = options.weak_classes
    counts = [n for n in options.devices if n <= jax.device_count()]
    calls, rows = {}, []
    for name in (*options.losses, *["training step"] * bool(options.step_rows)):
        for devices in counts:
            mesh = mesh_lib.make_mesh(jax.devices()[:devices])
            if name == "training step":
                batch = options.step_rows * devices
                small = dict(backbone="convnet", width=32, image_size=16, crop_scale=(1.0, 1.0))
                program, config = programs.train_step(mesh, batch_size=batch, **small)
                calls[name, devices] = programs.step_caller(program, config, mesh)
            else:
                batch = options.rows * devices
                dims = HEAD_DIMS if name == "scl" else options.dims
                program = programs.loss(name, batch, classes, dims, mesh, options.rows)
                arrays = programs.fill(programs.inputs(name, batch, classes, dims, mesh), classes)
                calls[name, devices] = programs.caller(program, arrays)
            found = programs.exchanges(program, devices) if devices > 1 else []
            rows.append(
                {
                    "what": name,
                    "devices": devices,
                    "rows": batch,
                    "collectives": sum(c.times for c in found),
                    "bytes sent a device": round(sum(c.sent(devices) for c in found)),
                }
            )
    times = measuring.in_turns(calls, options.rounds, slow_rounds=3)
    for row in rows:
        key, one = (row["what"], row["devices"]), (row["what"], 1)
        row["ms"] = 1e3 * statistics.median(times[key])
        # SCL's work a row grows with the batch.
        work = row["devices"] ** (2 if row["what"] == "scl" else 1)
        row["time by work / one device's"] = measuring.ratio(times, key, one) / work
    return rows


def memory_section(options):
    mesh, rows = mesh_lib.make_mesh(jax.devices()[:1]), []
    for dtype in options.dtypes.split(","):
        temporaries = {}
        for n in (1, options.microbatches):
            start = time.perf_counter()
            program, config = programs.train_step(
                mesh,
                batch_size=options.step_batch,
                microbatches=n,
                dtype=dtype,
                width=options.width,
            )
            temporaries[n] = programs.temporaries(program)
            rows.append(
                {
                    "network": f"{config.backbone}, {config.image_size} px, width {config.width}",
                    "dtype": dtype,
                    "B": options.step_batch,
                    "microbatches": n,
                    "temporaries, MiB": temporaries[n],
                    "/ one piece": temporaries[n] / temporaries[1],
                    "seconds to compile": time.perf_counter() - start,
                }
            )
            print(f"compiled {dtype}, {n} microbatches", file=sys.stderr, flush=True)
    return rows


def scl_section(options):
    tiles = tile_rows(options)
    print()
    measuring.show(tiles)
    print()
    return {"tiles": tiles, "gather and ring": ring_rows(options)}


def tile_rows(options):
    """Dense against blocks of several sizes on one device; then the largest batch, in blocks."""
    rows, calls = [], {}
    cells = [(options.views, block) for block in (None, *options.blocks)]
    cells += [(options.large_views, block) for block in options.blocks if block <= BLOCK]
    for views, block in cells:
        program = programs.loss("scl", views, 1, HEAD_DIMS, block_size=block)
        if views == options.views or options.run:
            shapes = programs.inputs("scl", views, 1, HEAD_DIMS)
            arrays = programs.fill(shapes, options.scl_classes)
            calls[views, block] = programs.caller(program, arrays)
        rows.append(
            {
                "views": views,
                "block": block,
                "temporaries, MiB": programs.temporaries(program),
                "all memory, MiB": programs.needed(program) / 2**20,
            }
        )
    times = measuring.in_turns(calls, options.rounds, slow_rounds=3)
    dense = (options.views, None)
    for row in rows:
        key, same = (row["views"], row["block"]), row["views"] == options.views
        less = rows[0]["temporaries, MiB"] / row["temporaries, MiB"]
        row["dense / that"] = less if same else None
        row["ms"] = 1e3 * statistics.median(times[key]) if key in times else None
        row["time / dense"] = measuring.ratio(times, key, dense) if same else None
    return rows


def ring_rows(options):
    """The library's gathering SCL, whole and in blocks, against a ring, on all devices."""
    mesh, rows = mesh_lib.make_mesh(), []

    def ring_mean(features, prototypes, labels):
        del prototypes
        return ring.scl_mean(features, labels, programs.TEMPERATURE, "data")

    for views in options.ring_views:
        shapes = programs.inputs("scl", views, 1, HEAD_DIMS, mesh)
        arrays = programs.fill(shapes, options.scl_classes)
        eighth = max(1, views // mesh.size // 8)
        ways = {
            "gather": programs.loss("scl", views, 1, HEAD_DIMS, mesh),
            "gather, in 8 blocks": programs.loss("scl", views, 1, HEAD_DIMS, mesh, eighth),
            "ring": programs.differentiated(ring_mean, shapes, mesh, (0,)),
        }
        results = {way: jax.device_get(program(*arrays)) for way, program in ways.items()}
        value, (slopes,) = results["gather"]
        for other, (other_slopes,) in results.values():
            np.testing.assert_allclose(other, value, rtol=1e-5)
            np.testing.assert_allclose(other_slopes, slopes, atol=1e-4 * np.abs(slopes).max())
        calls = {way: programs.caller(program, arrays) for way, program in ways.items()}
        times = measuring.in_turns(calls, options.rounds, slow_rounds=3)
        for way, program in ways.items():
            found = programs.exchanges(program, mesh.size)
            rows.append(
                {
                    "views": views,
                    "devices": mesh.size,
                    "keys by": way,
                    "ms": 1e3 * statistics.median(times[way]),
                    "time / gather": measuring.ratio(times, way, "gather"),
                    "temporaries a device, MiB": programs.temporaries(program),
                    "bytes sent a device": round(sum(c.sent(mesh.size) for c in found)),
                    "collectives": sum(c.times for c in found),
                }
            )
    return rows


def main(argv=None):
    numbers = lambda text: tuple(int(part) for part in text.split(",") if part)  # noqa: E731
    names = lambda text: tuple(text.split(","))  # noqa: E731
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = functools.partial(parser.add_argument, type=int)
    add("--only", type=str, default=",".join(SECTIONS), help="sections, separated by commas")
    add("--json", type=str, help="file to write")
    add("--losses", type=names, default=NAMES, help=f"of {', '.join(NAMES)}")
    add("--rounds", default=7, help="in which everything is timed in turn")
    add("--max_seconds", type=float, default=20.0)
    add("--max_gib", type=float, default=12.0)
    add("--batches", type=numbers, default=(512, 2048, 8192, 32768, 65536))
    add("--classes", type=numbers, default=(10, 100, 1000, 21000))
    add("--dims", default=512)
    add("--devices", type=numbers, default=(1, 2, 4, 8), help="in `weak`; starts with 1")
    add("--rows", default=1024, help="of a device, in `weak`")
    add("--weak_classes", default=1000)
    add("--step_rows", default=64, help="images of a device, in `weak`; 0: no training step")
    add("--step_batch", default=2048, help="images, in `memory`")
    add("--microbatches", default=8)
    add("--width", default=64, help="of ResNet-18, in `memory`")
    add("--dtypes", type=str, default="float32,bfloat16")
    add("--views", default=8192, help="2B, in `scl`")
    add("--ring_views", type=numbers, default=(8192, 16384))
    add("--large_views", default=65536)
    add("--scl_classes", default=100)
    add("--blocks", type=numbers, default=(256, 512, 1024, 2048))
    parser.add_argument("--run", action="store_true", help="time --large_views too")
    options = parser.parse_args(argv)
    only = options.only.split(",")
    if unknown := set(only) - set(SECTIONS):
        parser.error(f"--only: {', '.join(sorted(unknown))}; known are {', '.join(SECTIONS)}")
    if unknown := set(options.losses) - set(NAMES):
        parser.error(f"--losses: {', '.join(sorted(unknown))}; known are {', '.join(NAMES)}")
    if options.devices[0] != 1:
        parser.error("--devices must start with 1, which the others are held against")
    report = measuring.environment("numpy") | {"options": vars(options).copy(), "sections": {}}
    if "loss" in only:
        options.speed = report["matmul_flops"] = matmul_speed()
    for name in SECTIONS:
        if name in only:
            print(f"\n{name}", flush=True)
            found = report["sections"][name] = globals()[f"{name}_section"](options)
            print()
            measuring.show(found["gather and ring"] if name == "scl" else found)
            measuring.write(options.json, report)
    print({k: report[k] for k in ("command", "machine", "versions")})


if __name__ == "__main__":
    main()
