"""Names of hardware mean what their makers mean by them."""

import importlib.util

import pytest

from hsproto.errors import UserError
from hsproto.hardware import gpu_targets, topologies

NO_TPU_COMPILER = importlib.util.find_spec("libtpu") is None


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "platform"),
    [
        ("v4-128", 64, 16, "tpu"),  # named by TensorCores
        ("v5p-64", 32, 8, "tpu"),
        ("v5e-256", 256, 64, "tpu"),
        ("v5litepod-16", 16, 4, "tpu"),
        ("v6e-1", 1, 1, "tpu"),
        ("h100x8", 8, 1, "cuda"),
        ("a100x16", 16, 2, "cuda"),
        ("cpux8", 8, 1, "cpu"),
    ],
)
def test_a_name_gives_chips_hosts_and_the_compiler(name, chips, hosts, platform):
    found = topologies.parse(name)
    assert (found.chips, found.hosts, found.platform) == (chips, hosts, platform)
    assert topologies.parse(found.name) == found


@pytest.mark.parametrize("name", ["v5e-7", "v5e-2", "v4-4", "h100x12", "h100x0", "v9-8", "x", ""])
def test_other_names_are_refused_with_those_that_exist(name):
    with pytest.raises(UserError, match=r"e\.g\.|use one of"):
        topologies.parse(name)


def test_a_device_that_is_there_has_its_chips_published_figures():
    kinds = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5p": "v5p", "TPU v6 lite": "v6e"}
    kinds |= {"NVIDIA H100 80GB HBM3": "h100", "NVIDIA H200": "h200"}
    for name, kind in kinds.items():
        assert topologies.chip_of(name) is topologies.CHIPS[kind]
    assert topologies.chip_of("cpu") is None
    # Its smaller sister has other figures.
    assert topologies.chip_of("NVIDIA H100 PCIe") is None


def test_chips_are_arranged_as_square_or_cubic_as_they_can_be():
    shapes = {name: topologies.grid(topologies.parse(name)) for name in ("v5e-8", "v5e-64")}
    assert shapes == {"v5e-8": (2, 4), "v5e-64": (8, 8)}
    assert topologies.grid(topologies.parse("v4-8")) == (2, 2, 1)
    assert topologies.grid(topologies.parse("v5p-64")) == (2, 4, 4)


def test_more_chips_are_the_next_size_of_the_same_kind():
    assert topologies.parse("v4-128").larger(2).name == "v4-256"
    assert topologies.parse("h100x8").larger(4).name == "h100x32"
    assert topologies.parse("v6e-256").larger(2) is None


@pytest.mark.parametrize("name", ["v5e-8", "h100x8"])
def test_a_missing_compiler_is_named_with_the_extra_that_brings_it(name, monkeypatch):
    monkeypatch.setattr(topologies, "_installed", lambda module: False)
    with pytest.raises(UserError, match=r"not installed: pip install 'hsproto\[compile-(tpu|gpu)"):
        topologies.devices(topologies.parse(name))


def test_gpus_are_described_to_their_compiler():
    assert "core_count: 108" in gpu_targets.text("a100")
    for kind in ("h100", "h200"):
        text = gpu_targets.text(kind)
        assert "major: 9" in text
        assert text.count("{") == text.count("}")


@pytest.mark.skipif(NO_TPU_COMPILER, reason="libtpu is not installed")
@pytest.mark.parametrize("name", ["v5e-8", "v4-16", "v5p-16", "v6e-4", "v5e-1"])
def test_the_tpu_compiler_knows_each_generation(name):
    topology = topologies.parse(name)
    assert len(topologies.devices(topology)) == topology.chips
