"""What the losses should cost a step on pods: a projection from bytes, FLOPs and published speeds.

Nothing here is measured on a pod. The model, with all that it assumes:

- Matrix products: NTCE and NONL do three of [B/n, D] by [D, K], SCL three of [B/n, D] by [D, B]
  (four in blocks). They run in float32: six bfloat16 passes on a TPU (`Precision.HIGHEST`), FP32
  units on a GPU. Memory: logits, features and prototypes (or keys) are read or written six times
  each.
- Links: a ring on TPUs sends 2(n-1)/n of an array for an all-reduce and (n-1)/n of it for an
  all-gather or a reduce-scatter, at the chip's summed one-way link speed. Of GPUs the eight of a
  node reduce among themselves, then each its eighth with its like in other nodes, and back.
- Everything reaches `efficiency` of its peak; nothing overlaps, so that terms add up.
- Latency: a collective waits for its longest path, hop by hop: half way round each axis of a torus
  twice; on GPUs the way through the node's switch twice and to all other nodes and back. A hop is
  assumed to take 1 µs, between GPU nodes 5 µs.
- What devices exchange for NTCE and NONL is read from the program compiled for eight simulated
  devices, as its arrays do not depend on the number of devices. The sum of the prototypes'
  gradients, which every loss with prototypes needs, stands in a column of its own.
- The step it is held against is ResNet-50 at 224 px: 3 x 8.2 GFLOP an image (or view) in bfloat16.
"""

import math
from typing import NamedTuple


class Machine(NamedTuple):
    """Published peaks of one chip; speeds in bytes/s, one way."""

    name: str
    bf16: float  # FLOP/s
    f32: float  # FLOP/s at full float32 precision
    memory: float
    links: float  # to the other chips of its torus or node
    torus: tuple = ()  # chips along each axis, with wrap-around
    nodes: int = 1  # of eight GPUs each
    network: float = 0.0  # of each GPU, between nodes

    @property
    def chips(self):
        return math.prod(self.torus) if self.torus else 8 * self.nodes


# TPU v4, v5e and v5p: cloud.google.com/tpu/docs, "System architecture" (v4: 6 links of 50 GB/s,
# arXiv 2304.01433; v5e: 1600 Gbps; v5p: 4800 Gbps). H100 SXM: NVIDIA's data sheet (NVLink 900 GB/s
# is both ways together), DGX H100's eight 400 Gb/s adapters.
MACHINES = (
    Machine("256 TPU v4", 275e12, 275e12 / 6, 1.2e12, 300e9, torus=(4, 8, 8)),
    Machine("256 TPU v5e", 197e12, 197e12 / 6, 0.819e12, 200e9, torus=(16, 16)),
    Machine("256 TPU v5p", 459e12, 459e12 / 6, 2.765e12, 600e9, torus=(4, 8, 8)),
    Machine("64 H100", 989e12, 66.9e12, 3.35e12, 450e9, nodes=8, network=50e9),
)
PROTOTYPES = ((8192, 1000, 2048), (65536, 1000, 2048), (65536, 21000, 2048))  # B, K, D
VIEWS = ((8192, 128), (65536, 128))  # 2B, d of SCL
HOP, NODE_HOP = 1e-6, 5e-6
RESNET50 = 3 * 8.2e9


def latency(machine):
    """Seconds until the slowest path of an all-reduce is through; a gather takes half of it."""
    if machine.torus:
        return HOP * sum(2 * (axis // 2) for axis in machine.torus)
    return 2 * HOP + 2 * (machine.nodes - 1) * NODE_HOP


def all_reduce(machine, size, efficiency):
    """Seconds to sum an array of `size` bytes over all chips."""
    return 2 * all_gather(machine, size, efficiency)


def all_gather(machine, size, efficiency):
    """Seconds until every chip has the whole of an array of `size` bytes, or the reverse of it."""
    if machine.torus:
        sent = (machine.chips - 1) / machine.chips * size / machine.links
    else:
        between = (machine.nodes - 1) / machine.nodes * size / 8 / machine.network
        sent = between + 7 / 8 * size / machine.links
    return sent / efficiency + latency(machine) / 2


def products(machine, batch, columns, dims, efficiency):
    """Seconds of a chip's share of the loss between its exchanges."""
    rows = batch / machine.chips
    flops = 6 * rows * columns * dims
    touched = 6 * 4 * (rows * columns + rows * dims + columns * dims)
    return (flops / machine.f32 + touched / machine.memory) / efficiency


def project(exchanged, efficiency=0.5, machines=MACHINES):
    """Rows of the table, times in ms.

    `exchanged` is {(B, K, D): [bytes of each all-reduce]} of the loss, the prototypes' gradient
    left out, for PROTOTYPES.
    """
    rows = []
    for machine in machines:
        for batch, classes, dims in PROTOTYPES:
            sums = exchanged[batch, classes, dims]
            features = batch * dims * 4
            gradient = all_reduce(machine, classes * dims * 4, efficiency)
            rows.append(
                _row(machine, f"NTCE, NONL {batch}, {classes}, {dims}", batch, efficiency)
                | {
                    "products": 1e3 * products(machine, batch, classes, dims, efficiency),
                    "exchange": 1e3 * sum(all_reduce(machine, s, efficiency) for s in sums),
                    "kB exchanged": sum(sums) / 1e3,
                    # There and, for the gradient, back.
                    "gathering features": 2e3 * all_gather(machine, features, efficiency),
                    "prototypes' gradient": 1e3 * gradient,
                }
            )
        for views, dims in VIEWS:
            gathered = views * dims * 4
            rows.append(
                _row(machine, f"SCL {views}, -, {dims}", views, efficiency)
                | {
                    "products": 1e3 * products(machine, views, views, dims, efficiency),
                    "exchange": 2e3 * all_gather(machine, gathered, efficiency),
                    "kB exchanged": 2 * gathered / 1e3,
                    "gathering features": 2e3 * all_gather(machine, views * 2048 * 4, efficiency),
                    "prototypes' gradient": None,
                }
            )
    for row in rows:
        step = row.pop("step")
        row["loss / step, %"] = 100 * (row["products"] + row["exchange"]) / step
    return rows


def _row(machine, case, passed, efficiency):
    step = 1e3 * RESNET50 * passed / machine.chips / (machine.bf16 * efficiency)
    return {"on": machine.name, "loss B, K, D": case, "step": step}
