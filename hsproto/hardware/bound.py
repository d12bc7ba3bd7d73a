"""The least time that a step can take: what published peaks allow, reached in full and overlapped.

A bound and not a measurement: no program reaches the peaks, latencies are left out, and nothing is
known of the input pipeline.
"""

from collections.abc import Mapping

from hsproto.hardware import products
from hsproto.hardware.topologies import Topology


def seconds(
    topology: Topology, flops: Mapping[str, float], traffic: float | None, sent: float
) -> dict[str, float | None]:
    """Return the seconds a step of each resource of a chip: compute, memory, links.

    Args:
        topology: Whose chip has published figures.
        flops: {precision: FLOPs} of a chip (`products.of_chip`).
        traffic: Bytes between a chip and its memory; None: unknown.
        sent: Bytes that a chip sends to others.
    """
    chip = topology.chip
    rates = {
        products.BFLOAT16: chip.bfloat16,
        products.DEFAULT: chip.default,
        products.HIGHEST: chip.float32,
    }
    links = chip.network if chip.network and topology.hosts > 1 else chip.links
    return {
        "compute": sum(count / rates[precision] for precision, count in flops.items()),
        "memory": None if traffic is None else traffic / chip.bandwidth,
        "links": sent / links,
    }


def limit(times: Mapping[str, float | None]) -> tuple[float, str]:
    """Return the seconds of the slowest resource, and its name."""
    known = {name: value for name, value in times.items() if value is not None}
    slowest = max(known, key=known.get)
    return known[slowest], slowest
