"""Runs as tables: what is averaged, what a row is called, what stands beside it."""

import csv
import io

import made_runs
import pytest

from hsproto import metrics as metrics_lib
from hsproto.reporting import grouping, paper_protocol
from hsproto.reporting import table as table_lib
from hsproto.reporting.table import Table, Value
from hsproto.reporting.tables import evaluation as evaluation_tables
from hsproto.reporting.tables import sweeps
from hsproto.reporting.tables import training as training_tables
from hsproto.runs import run as run_lib

GEOMETRY = dict.fromkeys(metrics_lib.TABLE_COLUMNS, 0.5)


def cells(table):
    """{texts of the row: {column: cell}}."""
    return {texts: dict(zip(table.columns, row, strict=True)) for texts, row in table.rows}


def seeds(folder, loss, accuracies, **config):
    for seed, accuracy in enumerate(accuracies):
        name = ",".join([loss, *(f"{k}={v}" for k, v in config.items()), f"seed={seed}"])
        values = {"accuracy": accuracy}
        made_runs.write(folder, name, loss=loss, seed=seed, test=values, train=GEOMETRY, **config)


# The table itself.


def test_a_cell_tells_mean_deviation_seeds_and_the_difference_from_the_paper():
    value = table_lib.mean_over_seeds([73.0, 73.5, 74.0], paper=73.6)
    assert value == Value(73.5, 0.5, 3, paper=73.6)
    table = Table("name", "Title", "", ("loss",), ("cifar100",), [(("NONL",), (value,))])
    assert "| NONL | 73.50 ± 0.50 (n=3; paper 73.6, -0.10) |" in table_lib.to_markdown(table)
    line = next(csv.DictReader(io.StringIO(table_lib.to_csv(table))))
    assert line["difference"] == str(73.5 - 73.6)
    assert {line[k] for k in ("mean", "std", "n", "paper")} == {"73.5", "0.5", "3", "73.6"}


def test_one_seed_has_no_deviation():
    value = table_lib.mean_over_seeds([73.0])
    assert value.std is None and value.n == 1
    table = Table("name", "Title", "", ("loss",), ("x",), [(("NONL",), (value,))])
    assert "| 73.00 |" in table_lib.to_markdown(table)


def test_what_is_undefined_is_a_dash_and_empty_and_never_zero():
    undefined = table_lib.mean_over_seeds([None, float("nan")], paper=72.1)
    assert undefined.mean is None and undefined.difference is None
    table = Table("name", "Title", "", ("loss",), ("a", "b"), [(("CE",), (undefined, None))])
    assert "| CE | - (paper 72.1) | - |" in table_lib.to_markdown(table)
    (line,) = csv.DictReader(io.StringIO(table_lib.to_csv(table)))
    assert line["mean"] == line["std"] == line["difference"] == ""


def test_seeds_without_a_value_are_told():
    value = table_lib.mean_over_seeds([1.0, 3.0, None])
    assert (value.mean, value.n, value.undefined) == (2.0, 2, 1)
    table = Table("name", "Title", "", ("loss",), ("x",), [(("CE",), (value,))])
    assert "(n=2; 1 undefined)" in table_lib.to_markdown(table)


@pytest.mark.parametrize("text", ["a|b", "a\\|b", "*a*", "<b>", "[a](b)", "a\nb|", "`|`"])
def test_a_name_stays_in_its_cell(text):
    table = Table("name", "Title", "", ("loss",), ("x",), [((text,), (Value(1.0),))])
    line = table_lib.to_markdown(table).splitlines()[-1]
    bare = line.replace("\\\\", "").replace("\\|", "").replace("\\`", "")
    assert bare.count("|") == 3 and line.endswith(" 1.00 |")


def test_nothing_is_minus_zero():
    assert metrics_lib.format_number(-0.001, 2) == "0.00"
    assert metrics_lib.format_number(-1e-5) == "-1.0e-05"


# Rows.


def test_seeds_are_averaged_and_nothing_else(tmp_path):
    seeds(tmp_path, "nonl", [0.70, 0.72], temperature=0.1)
    seeds(tmp_path, "nonl", [0.50], temperature=0.5)
    seeds(tmp_path, "nonl", [0.10], batch_size=64)
    (table,) = training_tables.accuracy(made_runs.read(tmp_path))
    found = {texts[0]: row["cifar10"].mean for texts, row in cells(table).items()}
    assert found == pytest.approx(
        {"NONL": 71.0, "NONL, temperature=0.5": 50.0, "NONL, batch_size=64": 10.0}
    )
    assert "batch_size=512" in table.note and "temperature=0.1" in table.note


def test_no_two_settings_share_a_cell(tmp_path):
    for loss in ("nonl", "scl"):
        for embedding in ("pooled", "signed"):
            for batch_size in (32, 64):
                for size in (100, 200):
                    config = dict(embedding=embedding, batch_size=batch_size, num_examples=size)
                    config |= dict(projection="mlp") if loss == "scl" and size == 100 else {}
                    seeds(tmp_path, loss, [0.5, 0.6], dataset="cifar100", **config)
    found = made_runs.read(tmp_path)
    (table,) = training_tables.accuracy(found)
    assert len(table.rows) == len(found) / 2
    assert all(cell.n == 2 for _, row in table.rows for cell in row)
    for table in sweeps.sweeps(found):
        assert all(cell is None or cell.n == 2 for _, row in table.rows for cell in row)


def test_losses_come_in_the_papers_order_with_the_best_in_bold(tmp_path):
    for loss, accuracy in (("nonl", 0.5), ("scl", 0.6), ("cross_entropy", 0.4), ("ntce", 0.6)):
        seeds(tmp_path, loss, [accuracy])
    (table,) = training_tables.accuracy(made_runs.read(tmp_path))
    assert [texts[0] for texts, _ in table.rows] == ["CE", "NTCE", "NONL", "SCL"]
    assert [row[0].best for _, row in table.rows] == [False, True, False, True]


def test_each_data_set_has_its_own_usual_value(tmp_path):
    seeds(tmp_path, "nonl", [0.9, 0.9], temperature=0.2)
    seeds(tmp_path, "nonl", [0.7, 0.7], temperature=0.1, dataset="cifar100")
    (table,) = training_tables.accuracy(made_runs.read(tmp_path))
    assert [texts for texts, _ in table.rows] == [("NONL",)]
    assert table.columns == ("cifar10", "cifar100")
    assert "temperature=0.2 (cifar10) or 0.1 (cifar100)" in table.note


def test_the_embedding_is_always_named_where_it_differs(tmp_path):
    seeds(tmp_path, "nonl", [0.9, 0.9], embedding="signed")
    seeds(tmp_path, "nonl", [0.7], dataset="cifar100")
    (table,) = training_tables.accuracy(made_runs.read(tmp_path))
    assert {texts[0] for texts, _ in table.rows} == {
        "NONL, embedding=signed",
        "NONL, embedding=pooled",
    }


def test_what_losses_differ_in_is_told(tmp_path):
    seeds(tmp_path, "nonl", [0.9])
    seeds(tmp_path, "cross_entropy", [0.9], base_lr=0.7)
    (table,) = training_tables.accuracy(made_runs.read(tmp_path))
    assert "Losses differ in base_lr too." in table.note


def test_the_same_seed_counts_once_and_finished_runs_go_first(tmp_path):
    made_runs.write(tmp_path, "a", finished=False)
    made_runs.write(tmp_path, "b", test={"accuracy": 0.9})
    made_runs.write(tmp_path, "c", test={"accuracy": 0.8})
    kept, duplicates = grouping.drop_duplicates(made_runs.read(tmp_path))
    assert [run.name for run in kept] == ["b"]
    assert {run.name for run in duplicates} == {"a", "c"}


def test_a_run_that_is_not_finished_has_a_row_of_its_own(tmp_path):
    seeds(tmp_path, "nonl", [0.5])
    record = {"step": 40, "test/accuracy": 0.9, "train/nc1": 2.0}
    made_runs.write(tmp_path, "early", finished=False, seed=7, records=[record, {"step": 50}])
    (table,) = training_tables.accuracy(made_runs.read(tmp_path))
    found = {texts[0]: row["cifar10"] for texts, row in cells(table).items()}
    assert found["NONL"].mean == 50.0 and found["NONL, at step 40"].mean == 90.0
    assert not found["NONL, at step 40"].best
    (geometry,) = training_tables.geometry_tables(made_runs.read(tmp_path))
    assert cells(geometry)["NONL, at step 40", "own"]["NC1"].mean == 2.0


# Beside the paper.


def test_the_papers_figure_stands_beside_the_same_loss_and_data(tmp_path):
    seeds(tmp_path, "nonl", [0.74], dataset="cifar100")
    seeds(tmp_path, "nonl", [0.90], dataset="digits")
    seeds(tmp_path, "decoupled_normface", [0.73], dataset="cifar100")
    (table,) = training_tables.accuracy(made_runs.read(tmp_path))
    found = cells(table)
    assert found["NONL",]["cifar100"].paper == 73.6
    assert found["NONL",]["cifar100"].difference == pytest.approx(0.4)
    assert found["NONL",]["digits"].paper is None
    assert found["decoupled NormFace",]["cifar100"].paper is None


IMAGENET100 = dict(
    dataset="imagenet100", num_classes=100, image_size=224, epochs=500.0, temperature=0.2
)
IMAGENET100 |= dict(batch_size=1024, backbone="resnet50")
IMAGENET = IMAGENET100 | dict(dataset="imagenet2012", num_classes=1000, num_examples=1_281_167)
CIFAR100 = dict(dataset="cifar100")


@pytest.mark.parametrize(
    ("loss", "config", "paper"),
    [
        ("nonl", IMAGENET100, 84.9),
        ("nonl", IMAGENET100 | dict(backbone="resnet152"), 85.8),
        ("dot_regression", IMAGENET100 | dict(backbone="resnet152"), None),
        ("nonl", IMAGENET100 | dict(backbone="resnet152", epochs=100.0), None),
        ("nonl", IMAGENET | dict(batch_size=2048), 75.0),
        ("nonl", IMAGENET | dict(batch_size=8192), 76.5),
        ("nonl", IMAGENET | dict(batch_size=256), None),
        ("normface", CIFAR100 | dict(temperature=0.3), 72.4),
        ("normface", CIFAR100 | dict(temperature=1.0), 27.6),
        ("normface", CIFAR100 | dict(temperature=0.15), None),
        ("normface", CIFAR100 | dict(temperature=1.0, batch_size=64), None),
        ("cross_entropy", CIFAR100 | dict(temperature=1.0), 72.1),
        # Another protocol altogether, as the note says.
        ("nonl", CIFAR100 | dict(backbone="convnet", epochs=20.0, batch_size=64), 73.6),
        ("nonl", CIFAR100 | dict(epochs=20.0), 73.6),
    ],
)
def test_what_the_paper_varies_has_its_figure_for_the_value_or_none(tmp_path, loss, config, paper):
    seeds(tmp_path, loss, [0.5], **config)
    found = made_runs.read(tmp_path)
    (table,) = training_tables.accuracy(found)
    assert table.rows[0][1][0].paper == paper
    assert ("Tables 9 to 12" in table.note) == (paper in (85.8, 75.0, 27.6))


def test_the_factorial_has_the_papers_figures_of_its_temperature(tmp_path):
    for loss, accuracy in SQUARE.items():
        seeds(tmp_path, loss, [accuracy], temperature=1.0, dataset="cifar100")
    (table,) = sweeps.factorial(made_runs.read(tmp_path))
    found = {texts[2]: row for texts, row in table.rows if texts[1] == "accuracy, test"}
    assert found["K prototypes"][0].paper == 27.6
    assert [cell.paper for cell in found["M instances"][:2]] == [28.2, 26.8]


def test_a_set_of_the_same_name_with_other_classes_is_not_the_papers(tmp_path):
    made_runs.write(
        tmp_path, "coarse", dataset="cifar100", class_groups="cifar100_coarse", num_classes=20
    )
    made_runs.write(tmp_path, "cut", dataset="imagenet", class_list="imagenet100_cmc", seed=1)
    coarse, cut = made_runs.read(tmp_path)
    cut.config["num_classes"] = 100
    assert (
        paper_protocol.paper_set(coarse) is None and paper_protocol.paper_set(cut) == "imagenet100"
    )
    assert run_lib.data_set(coarse) == "cifar100 (cifar100_coarse)"


def test_the_note_tells_how_the_protocol_differs(tmp_path):
    seeds(tmp_path, "nonl", [0.5], epochs=20.0, backbone="convnet", image_size=16)
    (table,) = training_tables.accuracy(made_runs.read(tmp_path))
    assert "resnet18, 32 pixels, 1000 epochs, batch 512 (cifar10)" in table.note
    assert "other values: backbone=convnet; image_size=16; epochs=20." in table.note


def test_a_long_tail_of_the_whole_set_is_the_papers_protocol(tmp_path):
    seeds(tmp_path, "nonl", [0.5], imbalance_factor=0.01, num_examples=12_406)
    table, _ = training_tables.long_tail(made_runs.read(tmp_path))
    assert table.note.endswith("; these runs have the same.")


# Each table.


def test_geometry_has_its_optimum_and_the_papers_figures(tmp_path):
    workdir = made_runs.write(tmp_path, "scl", loss="scl", projection="mlp", train=GEOMETRY)
    lp = {"test": {"accuracy": 0.9}, "train": GEOMETRY, "seconds": 9.0, "passes": 100}
    made_runs.measure(workdir, "probe", {"step": 100, "lp": lp})
    seeds(tmp_path, "nonl", [0.9])
    (table,) = training_tables.geometry_tables(made_runs.read(tmp_path))
    found = cells(table)
    assert found["at collapse", "-"]["prototype cosine"].mean == pytest.approx(-1 / 9)
    assert found["at collapse", "-"]["intra"] is None
    assert found["NONL", "own"]["intra"].paper == 4.0
    assert found["SCL", "fixed prototypes"]["MIR"].paper == 1.0
    assert found["SCL", "LP"]["weights"].paper == 8.3


def test_fewer_dimensions_than_a_simplex_needs_have_no_optimum_of_ranks_and_cosines(tmp_path):
    flat = dict(dataset="digits", embedding="signed", embedding_dim=3)
    seeds(tmp_path / "flat", "nonl", [0.9], **flat)
    (table,) = training_tables.geometry_tables(made_runs.read(tmp_path / "flat"))
    assert [texts[0] for texts, _ in table.rows] == ["at collapse, D < 9", "NONL"]
    best = cells(table)["at collapse, D < 9", "-"]
    assert {name for name, cell in best.items() if cell} == {
        metrics_lib.METRICS[key].column
        for key in ("instance_alignment", "nc1", "weight_alignment", "class_alignment")
        if key in metrics_lib.TABLE_COLUMNS
    }
    # Beside runs that have room enough, each kind has its row.
    seeds(tmp_path / "flat", "ntce", [0.9], dataset="digits")
    (table,) = training_tables.geometry_tables(made_runs.read(tmp_path / "flat"))
    found = cells(table)
    assert [texts[0] for texts, _ in table.rows][:2] == ["at collapse", "at collapse, D < 9"]
    assert found["at collapse", "-"]["prototype cosine"].mean == pytest.approx(-1 / 9)
    assert found["at collapse, D < 9", "-"]["prototype cosine"] is None


def test_long_tails_stay_out_of_the_tables_of_whole_sets(tmp_path):
    seeds(tmp_path, "nonl", [0.5], imbalance_factor=0.1, num_examples=100)
    found = made_runs.read(tmp_path)
    assert training_tables.accuracy(found) == [] == training_tables.geometry_tables(found)
    assert {table.name for table in training_tables.build(found)} == {
        "longtail_cifar10",
        "longtail_shots_cifar10",
    }


def test_long_tails_have_a_column_an_imbalance_factor(tmp_path):
    for factor, accuracy in ((0.01, 0.7), (0.1, 0.8)):
        values = {"accuracy": accuracy, "accuracy_many": 0.9, "accuracy_few": None}
        values |= {"accuracy_adjusted": 0.75}
        config = dict(imbalance_factor=factor, num_examples=int(1000 * factor))
        made_runs.write(tmp_path, f"{factor}", loss="normface", test=values, **config)
    table, by_shots = training_tables.long_tail(made_runs.read(tmp_path))
    assert table.columns == ("0.1", "0.02", "0.01")[::2]
    assert [cell.paper for cell in table.rows[0][1]] == [88.0, 74.3]
    found = cells(by_shots)
    assert found["NormFace", "no"]["0.1 many"].mean == 90.0
    assert found["NormFace", "no"]["0.1 few"].mean is None
    assert found["NormFace", "yes"]["0.01 all"].mean == 75.0


def test_classifiers_are_told_by_head_and_passes(tmp_path):
    result = {"test": {"accuracy": 0.8}, "train": GEOMETRY, "seconds": 3.0}
    for seed, projection, passes in (
        (0, "mlp", 100),
        (1, "mlp", 100),
        (2, "mlp", 10),
        (3, "none", 100),
    ):
        workdir = made_runs.write(tmp_path, str(seed), loss="scl", projection=projection, seed=seed)
        probe = {"step": 100, "fp": result | {"passes": 1}, "lp": result | {"passes": passes}}
        made_runs.measure(workdir, "probe", probe)
    table, cost = evaluation_tables.classifiers(made_runs.read(tmp_path))
    found = cells(table)
    assert found["SCL", "LP", "mlp", "100"]["cifar10"].n == 2
    assert found["SCL", "LP", "mlp", "10"]["cifar10"].n == 1
    assert found["SCL", "LP", "none", "100"]["cifar10"].paper == 95.0
    assert found["SCL", "fixed prototypes", "mlp", "1"]["cifar10"].n == 3
    assert cells(cost)["SCL", "LP", "mlp", "100"]["seconds"].mean == 3.0
    assert training_tables.geometry_tables([]) == []


def transferred(accuracy, images=100, precision=None):
    found = {"accuracy": accuracy, "accuracy_per_class": accuracy, "average_precision": precision}
    return found | {"train_images": images, "test_images": 10, "protocol": {"step": 100}}


def test_transfer_has_a_mean_only_over_all_sets(tmp_path):
    sets = {"cifar100": transferred(0.4), "cifar10": transferred(0.6)}
    workdir = made_runs.write(tmp_path, "a", loss="nonl", dataset="cifar100")
    made_runs.measure(workdir, "transfer", {"datasets": sets})
    workdir = made_runs.write(tmp_path, "b", loss="ntce", dataset="cifar100")
    made_runs.measure(workdir, "transfer", {"datasets": {"cifar10": transferred(0.5)}})
    table, per_class = evaluation_tables.transfer(made_runs.read(tmp_path))
    assert table.columns == ("cifar10", "cifar100", "mean")
    found = cells(table)
    assert found["NONL", "cifar100"]["mean"] == Value(50.0, best=False)
    assert found["NTCE", "cifar100"]["mean"] is None
    assert found["NONL", "cifar100"]["cifar10"].paper == 90.0
    assert per_class.columns == ("cifar10", "cifar100")


def test_sets_of_other_sizes_are_other_columns_and_voc_is_in_average_precision(tmp_path):
    for name, images in (("a", 100), ("b", 200)):
        workdir = made_runs.write(tmp_path, name, seed=images)
        sets = {"cifar10": transferred(0.5, images), "voc/2007": transferred(None, 9, 0.7)}
        made_runs.measure(workdir, "transfer", {"datasets": sets})
    table, _ = evaluation_tables.transfer(made_runs.read(tmp_path))
    (row,) = cells(table).values()
    assert row["cifar10 (100 + 10 images)"].n == 1 and row["voc/2007"].mean == 70.0
    assert row["voc/2007"].n == 2 and row["mean"] is None


def test_mce_stands_beside_the_papers_on_imagenet_c_alone(tmp_path):
    result = {"step": 100, "clean_error": 0.25, "mean_error": 0.6, "mce": 80.0, "counted": 15}
    config = dict(dataset="imagenet2012", num_classes=1000, loss="nonl")
    workdir = made_runs.write(tmp_path, "a", **config)
    content = {
        "/data/imagenet-c": result | {"layout": "folder", "generated": False},
        "/data/mine": result | {"layout": "folder", "generated": True},
        "/data/arrays": result | {"layout": "npy", "generated": False, "mce": None},
    }
    made_runs.measure(workdir, "robustness", content)
    (table,) = evaluation_tables.robustness(made_runs.read(tmp_path))
    found = {texts[2]: row for texts, row in cells(table).items()}
    assert found["imagenet-c"]["mCE"].paper == 77.8
    assert found["imagenet-c"]["clean error"] == Value(25.0, paper=23.5, best=True)
    assert found["mine"]["mCE"].paper is None and found["arrays"]["mCE"].mean is None


def test_sets_whose_folders_share_a_name_stay_apart(tmp_path):
    workdir = made_runs.write(tmp_path, "a")
    others = {
        p: {"knn": {"auroc": a, "fpr95": 0.5}} for p, a in (("/x/svhn", 0.9), ("/y/svhn", 0.7))
    }
    made_runs.measure(workdir, "ood", {"step": 100, "k": 50, "others": others})
    (table,) = evaluation_tables.ood(made_runs.read(tmp_path))
    found = {texts[2]: row["kNN AUROC"].mean for texts, row in cells(table).items()}
    assert found == pytest.approx({"/x/svhn": 90.0, "/y/svhn": 70.0})


def test_calibration_and_retrieval_are_told_of_a_state(tmp_path):
    workdir = made_runs.write(tmp_path, "a")
    before = {"ece": 0.05, "nll": 0.3}
    content = {"step": 50, "bins": 15, "fit_share": 0.2, "accuracy": 0.9, "before": before}
    content |= {"after": {"ece": None, "nll": None}, "fitted_temperature": None}
    made_runs.measure(workdir, "calibration", content)
    content = {"step": 100, "labels": "own", "images": 10, "recall@1": 0.5, "map@r": 0.25}
    made_runs.measure(workdir, "retrieval", content)
    found = made_runs.read(tmp_path)
    (table,) = evaluation_tables.calibration(found)
    ((texts, row),) = cells(table).items()
    assert texts[0] == "NONL, at step 50"
    assert row["ECE"].mean == 5.0 and row["ECE after"].mean is None
    (table,) = evaluation_tables.retrieval(found)
    ((texts, row),) = cells(table).items()
    assert texts == ("NONL", "cifar10", "own", "-", "10")
    assert row["R@1"].mean == 50.0 and row["MAP@R"].mean == 25.0 and row["R@8"].mean is None


def evaluations(*alignments):
    return [
        {"step": 25 * i, "train/instance_alignment": value, "train/weight_alignment": 1.0}
        for i, value in enumerate(alignments, start=1)
    ]


def test_convergence_is_held_against_cross_entropy_of_the_same_seed(tmp_path):
    slow, fast = evaluations(1.0, 1.0, 1.0, 1.0), evaluations(1.0, 0.0, 0.0, 0.0)
    config = dict(dataset="cifar100", temperature=0.2, step=100)
    for seed in (0, 1):
        made_runs.write(tmp_path, f"nonl{seed}", loss="nonl", seed=seed, records=fast, **config)
    made_runs.write(
        tmp_path, "ce", loss="cross_entropy", seed=0, records=slow, dataset="cifar100", step=100
    )
    (table,) = training_tables.convergence_tables(made_runs.read(tmp_path))
    found = cells(table)
    assert ("CE", "value of the baseline") not in found
    to_baseline = found["NONL", "value of the baseline"]["instance_alignment"]
    assert (to_baseline.mean, to_baseline.sign, to_baseline.n) == (25.0, "<", 1)
    assert to_baseline.paper == 2.2 and to_baseline.difference is None
    assert "| <25.0 (paper 2.2) |" in table_lib.to_markdown(table).replace("\\", "")
    assert found["CE", "95 % of collapse"]["instance_alignment"].mean is None
    assert found["NONL", "95 % of collapse"]["instance_alignment"].n in (0, 2)


def test_convergence_of_some_seeds_is_told_and_not_averaged(tmp_path):
    for seed, end in enumerate((0.0, 1.0)):
        records = evaluations(0.0, 0.0, 0.0, end)
        made_runs.write(tmp_path, f"{seed}", seed=seed, records=records)
    (table,) = training_tables.convergence_tables(made_runs.read(tmp_path))
    (row,) = cells(table).values()
    assert row["instance_alignment"] == "in 1 of 2 seeds"


def test_a_share_is_a_bound_only_where_all_seeds_converged_by_the_first_evaluation(tmp_path):
    for seed, first in enumerate((0.0, 0.12)):
        records = evaluations(first, 0.0, 0.0, 0.0)
        made_runs.write(tmp_path, f"{seed}", seed=seed, dataset="cifar100", records=records)
    (table,) = training_tables.convergence_tables(made_runs.read(tmp_path))
    (row,) = cells(table).values()
    share = row["instance_alignment"]
    assert share.n == 2 and share.sign == "" and share.difference == share.mean - 79.4


def test_a_grid_of_temperatures_has_a_row_a_batch_size(tmp_path):
    for temperature in (0.07, 0.1, 1.0):
        for batch_size in (64, 512):
            config = dict(temperature=temperature, batch_size=batch_size, dataset="cifar100")
            seeds(tmp_path, "nonl", [0.4, 0.5], **config)
    by_batch, by_temperature = sweeps.sweeps(made_runs.read(tmp_path))
    assert by_temperature.name == "sweep_temperature_cifar100"
    assert by_temperature.columns == ("0.07", "0.1", "1")
    assert by_batch.columns == ("64", "512")
    found = cells(by_temperature)
    assert found["NONL, batch_size=512",]["0.07"].paper == 73.2
    assert found["NONL, batch_size=64",]["0.07"].paper is None
    assert all(cell.n == 2 for row in found.values() for cell in row.values())


def test_of_a_grid_one_point_stands_in_the_other_tables(tmp_path):
    for temperature in (0.1, 1.0):
        for batch_size in (64, 512):
            seeds(tmp_path, "nonl", [0.4], temperature=temperature, batch_size=batch_size)
    for batch_size in (64, 512):
        seeds(tmp_path, "cross_entropy", [0.3], batch_size=batch_size)
    seeds(tmp_path, "ntce", [0.6, 0.7], temperature=0.1)
    seeds(tmp_path, "ntce", [0.6], temperature=0.5)
    seeds(tmp_path, "ntce", [0.6], dataset="digits")
    found = {table.name: table for table in training_tables.build(made_runs.read(tmp_path))}
    assert [texts[0] for texts, _ in found["accuracy"].rows] == [
        "CE",
        "NTCE",
        "NTCE, temperature=0.5",
        "NONL",
    ]
    point = "on cifar10 the point with the most runs stands here, temperature=0.1, batch_size=512,"
    assert point in found["accuracy"].note and point in found["geometry_cifar10"].note
    assert "the most runs" not in found["geometry_digits"].note  # there is no grid
    assert len(found["sweep_temperature_cifar10"].rows) == 3
    assert len(found["sweep_batch_size_cifar10"].rows) == 3


def test_batch_sizes_and_backbones_have_the_papers_figures(tmp_path):
    for batch_size in (2048, 4096):
        config = dict(dataset="imagenet2012", num_classes=1000, batch_size=batch_size)
        seeds(tmp_path, "nonl", [0.7], **config)
    for backbone in ("resnet101", "resnet50"):
        config = dict(dataset="imagenet100", num_classes=100, backbone=backbone)
        seeds(tmp_path, "ntce", [0.8], **config)
    found = {table.name: table for table in sweeps.sweeps(made_runs.read(tmp_path))}
    batches = found["sweep_batch_size_imagenet2012"]
    assert [cell.paper for cell in batches.rows[0][1]] == [75.0, 76.2]
    backbones = found["sweep_backbone_imagenet100"]
    assert backbones.columns == ("resnet50", "resnet101")
    assert [cell.paper for cell in backbones.rows[0][1]] == [84.7, 85.4]


def test_runs_that_differ_in_two_settings_are_no_sweep(tmp_path):
    seeds(tmp_path, "nonl", [0.5], temperature=0.1, batch_size=64)
    seeds(tmp_path, "nonl", [0.5], temperature=0.2, batch_size=32)
    assert sweeps.sweeps(made_runs.read(tmp_path)) == []


SQUARE = {"normface": 0.70, "decoupled_normface": 0.72, "ntce": 0.71, "nonl": 0.75}


def test_the_factorial_tells_both_effects_and_how_they_go_together(tmp_path):
    for loss, accuracy in SQUARE.items():
        seeds(tmp_path, loss, [accuracy, accuracy + 0.1], dataset="cifar100")
    seeds(tmp_path, "nonl", [0.1], temperature=0.5, dataset="cifar100")
    (table,) = sweeps.factorial(made_runs.read(tmp_path))
    assert table.columns == ("coupled", "decoupled", "difference")
    found = {texts[2]: row for texts, row in table.rows if texts[1] == "accuracy, test"}
    means = {name: [cell.mean for cell in row] for name, row in found.items()}
    assert means["K prototypes"] == pytest.approx([75, 77, 2])
    assert means["M instances"] == pytest.approx([76, 80, 4])
    assert means["difference"] == pytest.approx([1, 3, 2])
    # Within a seed, so that what seeds have in common is no noise.
    assert found["K prototypes"][2].std == pytest.approx(0, abs=1e-9)
    assert found["K prototypes"][0].std == pytest.approx(50**0.5)
    assert found["M instances"][1].paper == 73.6 and found["K prototypes"][1].paper is None


def test_the_factorial_takes_the_seeds_that_all_four_have(tmp_path):
    for loss, accuracy in SQUARE.items():
        seeds(tmp_path, loss, [accuracy] if loss == "ntce" else [accuracy, 0.0])
    (table,) = sweeps.factorial(made_runs.read(tmp_path))
    assert all(cell.n == 1 for _, row in table.rows for cell in row)


def test_three_losses_make_no_factorial(tmp_path):
    for loss in list(SQUARE)[:3]:
        seeds(tmp_path, loss, [0.5])
    seeds(tmp_path, "nonl", [0.5], temperature=0.5)
    assert sweeps.factorial(made_runs.read(tmp_path)) == []
