"""Names that people use for hardware, `v5e-64` or `h100x8`, and the devices to compile for.

Devices come from the vendor's compiler alone (`jax.experimental.topologies`): no chip is needed. As
in Google's names, v4 and v5p count TensorCores, of which a chip has two; v5e and v6e count chips.
"""

import importlib.metadata
import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from hsproto.errors import UserError, one_line
from hsproto.hardware import gpu_targets


class Chip(NamedTuple):
    """Published figures of one chip; FLOP/s dense, speeds in bytes/s, links one way and summed.

    `passes` is how many bfloat16 products make one at full float32 precision; 0: the chip has units
    for it, of `float32` FLOP/s. `default` is the rate of float32 products at default precision:
    TPUs round to bfloat16, GPUs to TF32.
    """

    title: str
    memory: float  # bytes
    bandwidth: float
    bfloat16: float
    default: float
    float32: float
    links: float
    network: float  # of one chip, between hosts; 0: links join all chips
    source: str


_TPU_DOCS = "cloud.google.com/tpu/docs, system architecture"
GIB = 2**30


def _tpu(title, memory, bandwidth, bfloat16, links):
    # jax.lax.Precision.HIGHEST takes six bfloat16 passes.
    return Chip(
        title, memory * GIB, bandwidth, bfloat16, bfloat16, bfloat16 / 6, links, 0.0, _TPU_DOCS
    )


CHIPS = {
    "v4": _tpu("TPU v4", 32, 1.2e12, 275e12, 300e9),
    "v5e": _tpu("TPU v5e", 16, 0.819e12, 197e12, 200e9),
    "v5p": _tpu("TPU v5p", 95, 2.765e12, 459e12, 600e9),
    "v6e": _tpu("TPU v6e", 32, 1.64e12, 918e12, 400e9),
    "a100": Chip(
        "A100 SXM 80 GB", 80 * GIB, 2.039e12, 312e12, 156e12, 19.5e12, 300e9, 25e9,
        "NVIDIA's data sheets of A100 SXM and DGX A100",
    ),
    "h100": Chip(
        "H100 SXM 80 GB", 80 * GIB, 3.35e12, 989e12, 494e12, 67e12, 450e9, 50e9,
        "NVIDIA's data sheets of H100 SXM and DGX H100",
    ),
    "h200": Chip(
        "H200 SXM 141 GB", 140 * GIB, 4.8e12, 989e12, 494e12, 67e12, 450e9, 50e9,
        "NVIDIA's data sheets of H200 SXM and DGX H200",
    ),
}  # fmt: skip
_GPUS_OF_A_HOST = 8
_LARGEST = {"v4": 4096, "v5e": 256, "v5p": 8192, "v6e": 256}  # chips
_CORES = {"v4": 2, "v5p": 2}
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v6lite": "v6e"}
# What JAX calls the devices of a chip begins or goes on like this.
_DEVICE_KINDS = {
    "TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5p": "v5p", "TPU v6 lite": "v6e",
    "A100-SXM4-80GB": "a100", "H100 80GB HBM3": "h100", "H200": "h200",
}  # fmt: skip
EXAMPLES = "v5e-64, v4-128, v5p-64, v6e-64, h100x8, h200x8, a100x8"


class Topology(NamedTuple):
    """Hardware that a name stands for. `kind` is a key of CHIPS, or "cpu": simulated devices."""

    name: str
    kind: str
    chips: int

    @property
    def platform(self) -> str:
        """Of its compiler: tpu, cuda or cpu."""
        return {"cpu": "cpu"}.get(self.kind) or ("tpu" if self.kind in _LARGEST else "cuda")

    @property
    def chip(self) -> Chip | None:
        """The chip's published figures; None for simulated devices."""
        return CHIPS.get(self.kind)

    @property
    def hosts(self) -> int:
        """How many machines hold the chips."""
        own = {"tpu": 4, "cuda": _GPUS_OF_A_HOST}.get(self.platform, self.chips)
        return -(-self.chips // own)

    def larger(self, factor: int) -> "Topology | None":
        """The same with `factor` times the chips; None where there is no such one."""
        count = self.chips * factor * _CORES.get(self.kind, 1)
        try:
            return parse(f"{self.kind}{'-' if self.platform == 'tpu' else 'x'}{count}")
        except UserError:
            return None


def chip_of(device_kind: str) -> Chip | None:
    """Return the published figures of a device that is there, by its `device_kind`; or None."""
    known = (kind for part, kind in _DEVICE_KINDS.items() if part in device_kind)
    kind = next(known, None)
    return CHIPS[kind] if kind else None


def parse(name: str) -> Topology:
    """Return the hardware of a name. Raises UserError for one that is unknown."""
    match = re.fullmatch(r"([a-z]+\d*[a-z]*)(-|x)(\d{1,6})", name.lower())
    kind = match and _ALIASES.get(match[1], match[1])
    if not match or (kind not in CHIPS and kind != "cpu"):
        raise UserError(f"--topology={name} is unknown: e.g. {EXAMPLES}")
    count = int(match[3])
    if kind not in _LARGEST:
        several = count > _GPUS_OF_A_HOST
        if not count or (kind != "cpu" and several and count % _GPUS_OF_A_HOST):
            raise UserError(
                f"--topology={name}: GPUs come up to {_GPUS_OF_A_HOST} to a machine, more of them "
                f"as a multiple of {_GPUS_OF_A_HOST}, e.g. {kind}x8, {kind}x64"
            )
        return Topology(f"{kind}x{count}", kind, count)
    cores = _CORES.get(kind, 1)
    smallest = 1 if cores == 1 else 4
    sizes = [2**k for k in range(14) if smallest <= 2**k <= _LARGEST[kind] and 2**k != 2]
    if count not in [cores * size for size in sizes]:
        raise UserError(
            f"--topology={name} is no size of a {CHIPS[kind].title}: use one of "
            f"{', '.join(f'{kind}-{cores * size}' for size in sizes)}"
        )
    return Topology(f"{kind}-{count}", kind, count // cores)


def check_compiler(topology: Topology) -> None:
    """Raise UserError where the compiler of the hardware is not installed."""
    needs = {
        "tpu": ("libtpu", "Google's TPU compiler", "compile-tpu"),
        "cuda": ("jax_plugins.xla_cuda12", "JAX's plugin for NVIDIA GPUs", "compile-gpu"),
    }
    if topology.platform not in needs:
        return
    module, title, extra = needs[topology.platform]
    if not _installed(module):
        raise UserError(
            f"--topology={topology.name} needs {title}, which is not installed: "
            f"pip install 'hsproto[{extra}]' (no chip is needed)"
        )


def compiler_versions(topology: Topology) -> dict[str, str]:
    """Return the versions of the packages that compile for the hardware."""
    version = importlib.metadata.version
    vendor = {"tpu": ["libtpu"], "cuda": ["jax-cuda12-pjrt"]}.get(topology.platform, [])
    return {name: version(name) for name in ["jax", "jaxlib", *vendor]}


def devices(topology: Topology) -> list[Any]:
    """Return the devices to compile for.

    Raises:
        UserError: The compiler is missing, or cannot describe the hardware.
    """
    check_compiler(topology)
    try:
        return _devices(topology)
    except UserError:
        raise
    except Exception as error:  # whatever a vendor's library raises
        raise UserError(
            f"--topology={topology.name}: its compiler cannot be used here: {one_line(error, 300)}"
        ) from error


def _devices(topology):
    if topology.platform == "cpu":
        if len(jax.devices()) < topology.chips:
            raise UserError(
                f"--topology={topology.name}: set JAX_NUM_CPU_DEVICES={topology.chips} to simulate "
                "so many devices"
            )
        return jax.devices()[: topology.chips]
    if topology.platform == "tpu":
        # Nothing here touches a chip: neither the cloud's metadata nor a lock are needed.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")  # of this machine: none
        os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
        described = topologies.get_topology_desc(
            platform="tpu",
            topology_name=f"{topology.kind}:{'x'.join(map(str, grid(topology)))}",
            **_tpu_options(topology),
        )
    else:
        per_host = min(topology.chips, _GPUS_OF_A_HOST)
        described = topologies.get_topology_desc(
            topology.kind,
            platform="cuda",
            target_config=gpu_targets.text(topology.kind),
            topology=f"1x{topology.hosts}x{per_host}",
        )
    return list(described.devices)


def grid(topology: Topology) -> tuple[int, ...]:
    """Return the chips along each axis of a TPU: as square, or as cubic, as possible."""
    axes = 3 if topology.kind in _CORES else 2
    if axes == 3 and topology.chips == 4:
        return 2, 2, 1
    power = int(math.log2(topology.chips))
    return tuple(2 ** ((power + axis) // axes) for axis in range(axes))


def _tpu_options(topology):
    if topology.chips == 1:
        return {"chips_per_host_bounds": (1, 1, 1)}
    # A chip's two cores are one device, as JAX shows them on the machine.
    return {"chip_config_name": "megacore"} if topology.kind in _CORES else {}


def _installed(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
