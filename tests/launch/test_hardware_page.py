"""docs/hardware.md says what was compiled, and what was compiled is as good as it should be."""

import json

import pytest
from small_runs import ROOT

RESULTS = json.loads((ROOT / "benchmarks/hardware.json").read_text())


@pytest.fixture
def hardware(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import hardware

    return hardware


def test_the_page_is_that_of_the_results(hardware):
    assert (ROOT / "docs/hardware.md").read_text() == hardware.page(RESULTS)
    assert set(RESULTS) == {case.name for case in hardware.cases()}


def test_every_recipe_fits_or_has_what_makes_it_fit(hardware):
    for recipe in hardware.RECIPES:
        for topology in hardware.HARDWARE:
            assert RESULTS[hardware.Case(recipe, topology).name]["fits"]
    for case in hardware.recipe_cases():
        result = RESULTS[case.name]
        if "error" not in result and not result["fits"]:
            assert {"microbatches=2", "dtype=bfloat16"} <= set(result["remedies"])


def test_the_loss_is_a_small_part_of_the_step_and_exchanges_little(hardware):
    for row in hardware.LOSSES[:3]:
        result = RESULTS[hardware.loss_case(row).name]
        flops, traffic, _ = hardware.step_beside(RESULTS, row)
        assert sum(result["flops"].values()) <= 0.03 * flops
        assert result["traffic"] <= 0.03 * traffic
        own, gathering = hardware.exchanged_alone(row, result)
        assert 500 * own <= gathering


@pytest.mark.parametrize("topology", ["v5e-64", "h100x8"])
def test_the_step_is_as_lean_as_that_of_flaxs_example(hardware, topology):
    ours, flax = (
        RESULTS[hardware.Case(name, topology).name] for name in (hardware.IMAGENET, hardware.FLAX)
    )
    assert ours["traffic"] <= 1.2 * flax["traffic"]

    def counts(found):
        return {row["part"]: row["count"] for row in found}

    ours, flax = counts(ours["collectives"]), counts(flax["exchanges"])
    assert ours["BatchNorm"] <= flax["BatchNorm"]
    assert ours["gradients"] <= flax["gradients"] + 1
