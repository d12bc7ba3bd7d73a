"""`hsproto compile` says whether a run fits hardware, and what would make it fit."""

import json
import pickle

import jax
import pytest
import test_apart
from small_runs import tiny, tiny_config

from hsproto import cli, compile
from hsproto.errors import UserError
from hsproto.hardware import bound, data_sizes, products, programs, sizing, tables, topologies
from hsproto.parallel import mesh as mesh_lib

CPUS = topologies.parse("cpux8")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A tiny run compiled once for simulated devices: (its result, the folder of all files)."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        result = sizing.size(tiny_config(), CPUS, lambda line: None, save=str(folder / "step"))
    return result, folder


def run(capsys, folder, monkeypatch, *flags):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    status = compile.main([f"--config={tiny()}", "--topology=cpux8", *flags])
    return status, capsys.readouterr()


def test_a_compiler_that_crashes_is_one_line_with_its_version(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sizing, "_compile", test_apart.end_with_overflow)
    lines, version = [], topologies.compiler_versions(CPUS)["jaxlib"]
    with pytest.raises(UserError) as error:
        sizing.size(tiny_config(), CPUS, lines.append)
    assert str(error.value) == (
        "--topology=cpux8: its compiler cannot build this: "
        f"jaxlib {version} ended with SIGSEGV: stack overflow"
    )
    assert lines == ["compiling ..."]
    assert not list(tmp_path.rglob("*.json"))


def test_a_run_that_was_compiled_before_is_known(compiled, capsys, monkeypatch):
    monkeypatch.setattr(sizing, "_compile", None)  # would fail
    status, printed = run(capsys, compiled[1], monkeypatch)
    assert status == 0
    assert "cpux8: 8 x simulated device, 1 host(s)" in printed.out
    assert "fits" in printed.out
    for part in ("parameters", "optimizer", "gradients", "BatchNorm", "loss", "FLOPs"):
        assert part in printed.out
    status, printed = run(capsys, compiled[1], monkeypatch, "--json")
    assert json.loads(printed.out) == json.loads(json.dumps(compiled[0])) | {"remedies": {}}


def test_the_parts_of_the_memory_are_those_of_the_state(compiled):
    memory, state = compiled[0]["memory"], tiny_config()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    assert programs.state_bytes(data_sizes.resolve(state), mesh).items() <= memory.items()
    assert 0 < memory["parameters"] <= memory["optimizer"] + 4096  # a momentum of each
    assert compiled[0]["needed"] == sum(memory.values())


def test_a_chip_has_its_share_of_the_classes():
    config = data_sizes.resolve(tiny_config("digits", "embedding_dim=64"))
    sizes = {}
    for model_axis in (1, 2):
        mesh = mesh_lib.make_mesh(model_axis=model_axis)
        sizes[model_axis] = programs.state_bytes(config, mesh)["parameters"]
    assert sizes[1] - sizes[2] == 10 // 2 * 64 * 4


def test_the_loss_exchanges_sums_of_classes_and_no_features(compiled):
    of_loss = [row for row in compiled[0]["collectives"] if row["part"] == "loss"]
    assert {row["kind"] for row in of_loss} == {"all-reduce"}
    assert sum(row["bytes"] for row in of_loss) < 4 * 4 * 10 + 4 * 8


def test_microbatches_exchange_sums_and_no_features():
    config = data_sizes.resolve(tiny_config("digits", "microbatches=2"))
    step = programs.train_step(config, mesh_lib.make_mesh(), CPUS)
    assert {row["kind"] for row in step.exchanges} == {"all-reduce"}


def test_a_saved_step_is_kept_with_the_versions_that_it_needs(compiled, monkeypatch, capsys):
    kept = pickle.loads((compiled[1] / "step").read_bytes())
    assert kept["versions"] == topologies.compiler_versions(CPUS)
    assert kept["topology"] == "cpux8"
    assert len(kept["executable"]) == 3
    monkeypatch.setattr(sizing, "size", lambda *_: compiled[0])
    status, printed = run(capsys, compiled[1], monkeypatch, "--save=here")
    assert (status, printed.err) == (0, "wrote here\n")


def test_a_run_that_does_not_fit_ends_with_status_1_and_what_makes_it_fit(
    compiled, capsys, monkeypatch, tmp_path
):
    too_large = compiled[0] | {"fits": False, "built": False, "capacity": 2**20, "needed": 2**21}
    too_large |= {"traffic": None, "collectives": None}
    tried = []

    def size(config, topology, log, fresh=False, save=None):
        if save is not None:  # the first
            return too_large
        tried.append((config.microbatches, config.dtype, config.remat, topology.name))
        if config.microbatches == 2:
            raise UserError("does not divide")
        return compiled[0] | {"fits": config.microbatches == 4 or topology.chips > 8}

    monkeypatch.setattr(sizing, "size", size)
    status, printed = run(capsys, tmp_path, monkeypatch)
    assert status == 1
    assert "DOES NOT FIT: 0.00 of 0.00 GiB" in printed.out
    assert printed.out.count("unknown: the compiler found no room") == 2
    fitting = printed.out.partition("Fits, by compiling it, with\n")[2].splitlines()
    assert [line.split()[0] for line in fitting] == ["microbatches=4", "cpux16"]
    assert "microbatches=2 cannot be tried: does not divide" in printed.err
    assert tried == [
        (2, "float32", False, "cpux8"),
        (4, "float32", False, "cpux8"),
        (1, "bfloat16", False, "cpux8"),
        (1, "float32", True, "cpux8"),
        (1, "float32", False, "cpux16"),
    ]
    assert "None of the changes" in tables.describe_remedies([])


def test_the_bound_is_that_of_the_slowest_resource():
    h100, pod = topologies.parse("h100x8"), topologies.parse("v5e-64")
    times = bound.seconds(h100, {products.BFLOAT16: 989e12}, 3.35e12 / 2, 450e9 / 4)
    assert times == {"compute": 1.0, "memory": 0.5, "links": 0.25}
    assert bound.limit(times) == (1.0, "compute")
    # Full float32 precision is six bfloat16 passes on a TPU.
    assert bound.seconds(pod, {products.HIGHEST: 197e12}, None, 0)["compute"] == pytest.approx(6)
    assert bound.limit({"compute": 1.0, "memory": None, "links": 2.0}) == (2.0, "links")
    # Between hosts the network is what links GPUs.
    assert bound.seconds(topologies.parse("h100x64"), {}, 0, 50e9)["links"] == 1.0


def test_a_compilers_refusal_is_read():
    message = "Ran out of memory on HBM, the total memory required for HLO temporaries (44.70G)"
    assert programs._needed(message) == int(44.7 * 2**30)
    assert programs._needed("RESOURCE_EXHAUSTED: no room") is None


def test_the_size_of_unknown_data_must_be_given():
    config = cli.load_config("cifar:dataset=mine")
    with pytest.raises(UserError, match="the size of 'mine' is known only from its data"):
        data_sizes.resolve(config)
    config = cli.load_config("imagenet100")
    assert data_sizes.resolve(config).num_classes == 100
    assert data_sizes.resolve(config).crop_on == "host"
    assert data_sizes.resolve(cli.load_config("longtail")).num_examples == 10847
    with pytest.raises(UserError, match="batch_size=65536 is larger than the training set"):
        data_sizes.resolve(cli.load_config("cifar:batch_size=65536"))
