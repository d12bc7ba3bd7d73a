"""What XLA's GPU compiler must know of a card that is not there: its GpuTargetConfig as text.

The figures are published: NVIDIA's data sheets (multiprocessors, clock, memory, cache) and the CUDA
programming guide's table of compute capabilities (threads, registers, shared memory).
"""

_TEXT = """
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: 0 }}
  core_count: {multiprocessors}
  fpus_per_core: {units}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  shared_memory_per_core: {shared}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared_by_request}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  runtime_version: "12.8.0"
  driver_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""
_KIB, _MIB = 2**10, 2**20
_HOPPER = dict(
    major=9, multiprocessors=132, units=128, clock=1.98, cache=50 * _MIB, shared=228 * _KIB,
    shared_by_request=227 * _KIB,
)  # fmt: skip
_FIGURES = {
    "a100": dict(
        major=8, multiprocessors=108, units=64, clock=1.41, cache=40 * _MIB, shared=164 * _KIB,
        shared_by_request=163 * _KIB, memory=80 * 10**9, bandwidth=2039 * 10**9,
        name="NVIDIA A100-SXM4-80GB",
    ),
    "h100": _HOPPER | dict(
        memory=80 * 10**9, bandwidth=3350 * 10**9, name="NVIDIA H100 80GB HBM3",
    ),
    "h200": _HOPPER | dict(
        memory=141 * 10**9, bandwidth=4800 * 10**9, name="NVIDIA H200",
    ),
}  # fmt: skip


def text(kind: str) -> str:
    """Return the GpuTargetConfig of a card: a100, h100 or h200."""
    return _TEXT.format(**_FIGURES[kind])
