"""Pictures of runs: what is drawn of runs made up in memory, and what is not."""

import math
import os
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from hsproto import config as config_lib
from hsproto import methods
from hsproto.reporting import grouping
from hsproto.reporting.figures import comparisons as comparison_figures
from hsproto.reporting.figures import dynamics as dynamics_figures
from hsproto.reporting.figures import runs as run_figures
from hsproto.reporting.figures import style
from hsproto.runs.run import Run

MEASURES = {
    "instance_alignment": lambda t: 2 * 0.01**t,
    "weight_alignment": lambda t: 2 * 0.1**t,
    "nc1": lambda t: 5 * 0.1**t,
    "erank_inter": lambda t: 9 * t,
    "erank_weights": lambda t: 3 + 0 * t,
    "cosine_prototypes_mean": lambda t: -t / 9,
}


@pytest.fixture(autouse=True)
def closed():
    yield
    style.matplotlib()[0].close("all")


def made(loss="nonl", seed=42, accuracy=0.5, finished=True, measures=MEASURES, **config):
    """A run of 100 steps that was evaluated at each tenth of them."""
    settings = config_lib.default().to_dict()
    settings |= dict(loss=loss, seed=seed, num_classes=10, num_examples=1000, epochs=10.0)
    settings |= dict(batch_size=100, dataset="made") | config
    shares = np.arange(1, 11 if finished else 6) / 10
    records = [{"step": 5, "loss": 1.0}]
    for share in shares:
        values = {f"train/{name}": float(of(share)) for name, of in measures.items()}
        records.append({"step": round(100 * share), **values})
    summary = {"step": 100, "test": {"accuracy": accuracy}, "train": {}} if finished else None
    return Run(f"{loss}-{seed}", f"no/{loss}-{seed}", settings, summary, records, 0, {})


def with_prototypes(run, folder, prototypes, names=None):
    folder.mkdir(exist_ok=True)
    names = [f"class {i}" for i in range(len(prototypes))] if names is None else names
    arrays = dict(prototypes=prototypes, class_means=prototypes, class_names=np.array(names))
    np.savez(folder / "prototypes.npz", **arrays)
    return run._replace(workdir=str(folder))


def only(runs):
    (comparison,) = grouping.find(runs)
    return comparison


def drawn(runs):
    """{name: figure} of all pictures."""
    return dict(comparison_figures.figures(runs))


def names(runs):
    """What the files of runs' comparisons are called, but for the kind of the picture."""
    return [name for name, _ in comparison_figures.named(grouping.find(runs))]


def panel(figure, title):
    (axis,) = [axis for axis in figure.axes if axis.get_title().startswith(title)]
    return axis


def lines(axis):
    """{loss's name: its line}"""
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_dynamics_have_a_line_a_loss_that_is_the_mean_over_seeds():
    runs = [made("cross_entropy"), made(seed=1), made(seed=2, measures={"nc1": lambda t: 1.0})]
    figure = dynamics_figures.dynamics(only(runs))
    assert set(lines(panel(figure, "NC1"))) == {"CE", "NONL"}
    share, mean = lines(panel(figure, "NC1"))["NONL"].get_data()
    assert list(share) == pytest.approx(list(range(10, 101, 10)))
    assert mean[-1] == pytest.approx((1 + 0.5) / 2)
    _, _, low, high = dynamics_figures.curve(runs[1:], "nc1")
    assert (low[-1], high[-1]) == pytest.approx((0.5, 1))


def test_dynamics_show_the_optimum_and_95_per_cent_of_collapse():
    figure = dynamics_figures.dynamics(only([made()]))

    def levels(title):
        guides = [line for line in panel(figure, title).lines if line.get_color() == "0.35"]
        return {line.get_linestyle(): line.get_ydata()[0] for line in guides}

    assert levels("rank of prototypes") == pytest.approx({"--": 9, ":": 0.95 * 9})
    assert levels("prototype cosine") == pytest.approx({"--": -1 / 9})
    assert levels("weight alignment (optimum 0)") == pytest.approx({":": 0.1})
    assert levels("NC1 (optimum 0)") == {}
    assert panel(figure, "NC1").get_yscale() == "log"
    low, high = panel(figure, "rank of prototypes").get_ylim()
    assert low < 3 and high > 9


def test_there_is_no_simplex_to_reach_with_too_few_dimensions():
    figure = dynamics_figures.dynamics(only([made(embedding="signed", embedding_dim=4)]))
    styles = [line.get_linestyle() for line in panel(figure, "rank of pro").lines]
    assert "--" not in styles


def test_unfinished_runs_show_in_dynamics_alone():
    found = drawn([made(finished=False)])
    assert list(found) == ["dynamics_made"]
    share = lines(panel(found["dynamics_made"], "NC1"))["NONL"].get_xdata()
    assert share[-1] == pytest.approx(50)  # of the training that the config asks for
    (legend,) = found["dynamics_made"].legends
    assert "NONL, 1 seed (1 unfinished)" in [text.get_text() for text in legend.texts]


@pytest.mark.parametrize("undefined", [None, math.nan, math.inf])
def test_undefined_values_are_left_out_and_never_zero(undefined):
    run = made()
    run.records[1]["train/erank_inter"] = undefined
    share, mean, _, _ = dynamics_figures.curve([run], "erank_inter")
    assert share[0] == 20 and mean[0] == pytest.approx(1.8)
    for record in run.records:
        record["train/erank_inter"] = undefined
    figure = dynamics_figures.dynamics(only([run]))
    assert not [a for a in figure.axes if a.get_title() == "rank of class means"]
    assert all(lines(axis) for axis in figure.axes)


def test_a_log_axis_has_no_value_at_zero():
    run = made(measures={"nc1": lambda t: max(0.0, 0.5 - t)})
    assert dynamics_figures.curve([run], "nc1", positive=True)[0].tolist() == [10, 20, 30, 40]


def test_runs_that_were_never_evaluated_have_no_picture():
    assert drawn([made(measures={}, finished=False)]) == {}


def test_convergence_tells_when_by_when_and_never():
    runs = [made(seed=1), made(seed=2)]
    # 2 · 0.01^t is below 0.1 from 70 % on, its weighted mean later.
    assert dynamics_figures.convergence_shares(runs, "instance_alignment") == [(90, False)] * 2
    assert dynamics_figures.convergence_shares(runs, "erank_weights") == [(None, False)] * 2
    figure = dynamics_figures.converging(only(runs))
    assert "90" in texts(panel(figure, "instance alignment"))
    never = panel(figure, "rank of prototypes")
    assert texts(never) == []
    assert [line.get_xdata() for line in never.lines] == [[dynamics_figures.NEVER]]
    assert "never" in [label.get_text() for label in never.get_xticklabels()]
    assert not [axis for axis in figure.axes if axis.get_title() == "rank within classes"]


def test_a_mean_over_seeds_says_how_many_never_converge():
    early = made(seed=1, measures={"erank_weights": lambda t: 9.0})
    figure = dynamics_figures.converging(only([early, made(seed=2)]))
    assert texts(panel(figure, "rank of prototypes")) == ["1 of 2", "<10"]


def test_a_loss_without_the_measure_is_not_one_that_never_converges():
    runs = [made(), made("scl", measures={"erank_inter": lambda t: 9.0}, projection="mlp")]
    axis = panel(dynamics_figures.converging(only(runs)), "weight alignment")
    assert "not measured" in texts(axis)


def grid(missing=(), **config):
    cells = [(t, b) for t in (0.1, 0.2) for b in (32, 64, 128) if (t, b) not in missing]
    return [made(temperature=t, batch_size=b, accuracy=t + b / 1000, **config) for t, b in cells]


def test_a_phase_diagram_prints_accuracies_and_leaves_missing_cells_hatched():
    runs = grid() + grid(loss="ntce", missing=[(0.1, 64)]) + [made("cross_entropy")]
    figure = comparison_figures.phase(*grouping.grids(runs))
    full, gap = (panel(figure, name) for name in ("NONL", "NTCE"))
    assert sorted(texts(full)) == ["13.2", "16.4", "22.8", "23.2", "26.4", "32.8"]
    assert len(texts(gap)) == 5 and "0.0" not in texts(gap)
    cells = gap.collections[0].get_array()
    assert np.ma.getmaskarray(cells).tolist() == [[False, True, False], [False] * 3]
    assert gap.patch.get_hatch()
    assert full.collections[0].norm.vmin == gap.collections[0].norm.vmin == pytest.approx(13.2)
    assert len(figure.axes) == 3  # two losses and the scale


@pytest.mark.parametrize("undefined", [None, math.nan])
def test_a_cell_is_the_mean_over_defined_accuracies(undefined):
    runs = [made(seed=seed, accuracy=a) for seed, a in enumerate((0.25, 0.75, undefined))]
    assert comparison_figures.accuracies(runs) == {(0.1, 100): 50}


def test_one_temperature_or_one_batch_size_make_no_phase_diagram():
    assert grouping.grids([made(batch_size=size) for size in (32, 64)]) == []
    assert grouping.grids([made(temperature=value) for value in (0.1, 0.2)]) == []
    # Cross entropy has no temperature to vary.
    assert grouping.grids(grid(loss="cross_entropy")) == []


def test_of_a_grid_one_point_is_shown_in_dynamics_with_all_losses():
    runs = grid() + [made(temperature=0.2, batch_size=64, seed=7), made("cross_entropy",
            temperature=0.1, batch_size=64)]  # fmt: skip
    comparison = only(runs)
    assert comparison.settings == {"batch_size": 64, "temperature": 0.2}
    assert {loss: len(found) for loss, found in comparison.by_loss.items()} == {
        "cross_entropy": 1,
        "nonl": 2,
    }


def test_runs_are_parted_by_what_varies_within_a_loss_and_not_by_what_goes_with_it():
    runs = [made(loss, embedding=e) for loss in ("nonl", "ntce") for e in ("pooled", "signed")]
    runs.append(made("scl", projection="mlp", embedding="pooled"))
    pooled, signed = grouping.find(runs)
    assert (list(pooled.by_loss), list(signed.by_loss)) == (
        ["ntce", "nonl", "scl"],
        ["ntce", "nonl"],
    )
    assert pooled.settings == {"embedding": "pooled"} and pooled.also == ["projection"]
    assert names(runs) == ["made_embedding_pooled", "made_embedding_signed"]


def test_data_sets_and_long_tails_are_pictures_of_their_own():
    runs = [made(), made("ntce", dataset="other"), made("ntce", imbalance_factor=0.01)]
    assert names(runs) == ["made", "other", "made_LT_0.01"]


def test_names_of_files_stay_apart_where_letters_have_to_go():
    runs = [made(dataset="a/b"), made(dataset="a b"), made(dataset="../..")]
    assert names(runs) == ["a_b", "a_b__2", "data"]


def simplex(classes):
    return np.eye(classes) - 1 / classes


def test_cosine_matrices_are_white_at_the_simplex_and_of_one_seed(tmp_path):
    runs = [
        with_prototypes(made(seed=1), tmp_path / "a", np.ones((10, 10))),
        with_prototypes(made(seed=2), tmp_path / "b", np.eye(10)),
        with_prototypes(made("ntce", seed=2), tmp_path / "c", simplex(10)),
        made("scl", projection="mlp"),
    ]
    figure = comparison_figures.cosines(only(runs))
    ntce, nonl = (panel(figure, name).images[0] for name in ("NTCE", "NONL"))
    assert ntce.get_cmap()(ntce.norm(-1 / 9)) == pytest.approx((0.97,) * 3 + (1,), abs=0.01)
    assert np.ma.getmaskarray(ntce.get_array()).diagonal().all()
    assert nonl.get_array()[0, 1] == 0  # of seed 2, as the first panel
    assert len(figure.axes) == 3  # two losses and the scale


def test_of_many_classes_those_that_are_alike_stand_together(tmp_path):
    groups = np.arange(30) % 3
    prototypes = np.eye(3)[groups] + 0.1 * np.eye(30, 3)
    run = with_prototypes(made(num_classes=30), tmp_path / "run", prototypes)
    image = comparison_figures.cosines(only([run])).axes[0].images[0]
    alike = np.ma.filled(image.get_array(), 1) > 0.5
    assert (alike == np.kron(np.eye(3), np.ones((10, 10)))).all()


def long_tail(accuracies, counts=(5, 500, 50), **config):
    run = made(imbalance_factor=0.01, **config)
    per_class = {"train_images": list(counts), "test_accuracy": list(accuracies)}
    return run._replace(summary=run.summary | {"per_class": per_class})


def test_classes_are_sorted_by_their_images_and_averaged_over_seeds():
    runs = [long_tail((0.1, 0.9, 0.5), seed=1), long_tail((0.3, 0.9, None), seed=2)]
    axis, bars = comparison_figures.classes(only(runs)).axes
    assert axis.lines[0].get_ydata().tolist() == pytest.approx([90, 50, 20])
    assert [bar.get_height() for bar in bars.patches] == [500, 50, 5]
    assert bars.get_yscale() == "log"


def test_a_class_without_test_images_has_no_point():
    axis = comparison_figures.classes(only([long_tail((None, 0.9, 0.5))])).axes[0]
    assert axis.lines[0].get_xdata().tolist() == [1, 2]


def test_of_many_classes_neighbors_are_averaged():
    runs = [long_tail(np.linspace(0, 1, 100), counts=range(1, 101), num_classes=100)]
    axis = comparison_figures.classes(only(runs)).axes[0]
    assert len(axis.lines[0].get_ydata()) == 20
    assert axis.lines[0].get_ydata()[0] == pytest.approx(100 * 97 / 99)
    assert "means of 5 neighbors" in axis.get_xlabel()


def test_balanced_runs_have_no_picture_of_classes():
    assert comparison_figures.classes(only([made()])) is None


def test_no_two_losses_look_alike():
    looks = [(m.title, m.color, m.marker) for m in methods.METHODS.values()]
    for part in zip(*looks, strict=True):
        assert len(set(part)) == len(methods.LOSSES)


EVIL = r"$\frac{<script>alert(1)</script>$ & \\foo_{"


def test_names_from_outside_are_neither_formulas_nor_markup(tmp_path, recwarn):
    run = long_tail((0.1, 0.9, 0.5), loss=EVIL, dataset=EVIL, class_list=EVIL)
    run = with_prototypes(run, tmp_path / "run", simplex(3), names=[EVIL, "a$b$c", "$x$"])
    run = run._replace(name=EVIL)
    for path in run_figures.write_all([run], tmp_path / "out"):
        if path.endswith(".svg"):
            tags = {element.tag.split("}")[-1] for element in ElementTree.parse(path).iter()}
            assert "script" not in tags and "path" in tags
    axis = comparison_figures.classes(only([run])).axes[0]
    shown = [label.get_text() for label in axis.get_xticklabels()]
    assert shown[:2] == ["a$b$c", "$x$"] and not recwarn.list


def test_every_picture_is_a_png_and_an_svg_that_is_the_same_each_time(tmp_path):
    runs = grid()
    paths = run_figures.write_all(runs, tmp_path / "a")
    written = [os.path.basename(path) for path in paths]
    kinds = ("dynamics_made", "convergence_made", "phase_made")
    assert written == [f"{kind}.{ending}" for kind in kinds for ending in ("png", "svg")]
    run_figures.write_all(runs, tmp_path / "b")
    for name in written:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        assert len(content) > 5000 and b"dc:date" not in content


def test_nothing_is_written_of_nothing(tmp_path):
    assert run_figures.write_all([], tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


def test_the_pictures_of_one_run_are_png_and_on_request_svg(tmp_path):
    with_prototypes(made(), tmp_path, simplex(3))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "train/nc1": null}\n')
    assert run_figures.write_figures(tmp_path, tmp_path) == [
        str(tmp_path / name) for name in ("cosines.png", "training.png")
    ]
    assert run_figures.has_figures(tmp_path) and not list(tmp_path.glob("*.svg"))
    written = run_figures.write_figures(tmp_path, tmp_path, svg=True)
    assert [os.path.basename(path) for path in written] == [
        "cosines.png", "cosines.svg", "training.png", "training.svg",
    ]  # fmt: skip
