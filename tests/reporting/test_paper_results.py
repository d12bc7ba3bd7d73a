"""The paper's tables as data, against figures typed a second time."""

import pytest

from hsproto import geometry, methods
from hsproto import metrics as metrics_lib
from hsproto.reporting import convergence as convergence_lib
from hsproto.reporting import paper_results

FIVE = {"cross_entropy", "dot_regression", "normface", "ntce", "nonl"}


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (paper_results.ACCURACY["nonl"]["cifar100"], 73.6),
        (paper_results.ACCURACY["dot_regression"]["imagenet100"], 84.5),
        (paper_results.ACCURACY["ntce"]["imagenet2012"], 76.7),
        (paper_results.ACCURACY_OF_SEEDS["cifar100"]["nonl"], (73.38, 0.28)),
        (paper_results.ACCURACY_OF_SEEDS["cifar10"]["ntce"], (94.68, 0.07)),
        (paper_results.CLASSIFIERS["fp", "mlp"]["imagenet100"], 86.8),
        (paper_results.CLASSIFIERS["nlp", "none"]["imagenet2012"], 72.1),
        (paper_results.CLASSIFIERS["cached_lp", "mlp"], {"cifar10": 94.4, "cifar100": 72.3}),
        (paper_results.GEOMETRY["cifar10"]["nonl"]["erank_intra"], 4.0),
        (paper_results.GEOMETRY["cifar100"]["cross_entropy"]["erank_inter"], 57.1),
        (paper_results.GEOMETRY["cifar100"]["normface"]["hdr"], 0.30),
        (paper_results.GEOMETRY["cifar100"]["scl+fp"]["mir"], 0.87),
        (paper_results.TRANSFER["nonl"]["cars196"], 38.1),
        (paper_results.TRANSFER["dot_regression"]["mean"], 54.6),
        (paper_results.TRANSFER["cross_entropy"]["voc/2007"], 67.1),
        (paper_results.ROBUSTNESS["ntce"], {"clean_error": 23.3, "mce": 77.6}),
        (paper_results.LONG_TAIL["cifar10"]["ntce"][0.01], 77.3),
        (paper_results.LONG_TAIL["cifar100"]["nonl"][0.02], 44.7),
        (paper_results.CONVERGENCE["cifar100"]["95 % of collapse"]["nonl"]["erank_intra"], 14.6),
        (
            paper_results.CONVERGENCE["cifar100"]["value of the baseline"]["ntce"]["erank_weights"],
            73.9,
        ),
        (paper_results.BATCH_SIZE["imagenet2012"]["nonl"][2048], 75.0),
        (paper_results.BACKBONE["imagenet100"]["nonl"]["resnet152"], 85.8),
        (paper_results.TEMPERATURE["cifar100"]["nonl"][0.07], 73.2),
        (paper_results.TEMPERATURE["cifar10"]["normface"][0.8], 85.9),
    ],
)
def test_a_figure_is_the_papers(found, value):
    assert found == value


def test_tables_name_losses_data_sets_and_measures_as_the_library_does():
    assert set(paper_results.ACCURACY) == set(paper_results.TRANSFER) == FIVE < set(methods.LOSSES)
    assert set(paper_results.ROBUSTNESS) == FIVE
    assert all(set(rows) == FIVE for rows in paper_results.LONG_TAIL.values())
    assert all(set(row) == set(paper_results.CLASSES) for row in paper_results.ACCURACY.values())
    assert set(paper_results.GEOMETRY_MEASURES) < set(geometry.optimum(10))
    assert set(paper_results.CONVERGENCE_MEASURES) == set(metrics_lib.CONVERGENCE)
    assert set(paper_results.CONVERGENCE["cifar100"]) == {
        convergence_lib.COLLAPSE,
        convergence_lib.BASELINE,
    }


def test_accuracies_are_in_per_cent():
    for row in (*paper_results.ACCURACY.values(), *paper_results.CLASSIFIERS.values()):
        assert all(50 < value < 100 for value in row.values())


def test_a_printed_mean_is_that_of_its_row_to_rounding():
    for row in paper_results.TRANSFER.values():
        sets = [row[name] for name in paper_results.TRANSFER_SETS]
        assert sum(sets) / len(sets) == pytest.approx(row["mean"], abs=0.06)


def test_five_seeds_agree_with_the_single_run():
    for name, losses in paper_results.ACCURACY_OF_SEEDS.items():
        for loss, (mean, std) in losses.items():
            assert abs(paper_results.ACCURACY[loss][name] - mean) < 2 * std


def test_the_best_temperature_is_that_of_the_table_of_accuracies():
    for name, losses in paper_results.TEMPERATURE.items():
        for loss, row in losses.items():
            assert max(row.values()) == paper_results.ACCURACY[loss][name]
