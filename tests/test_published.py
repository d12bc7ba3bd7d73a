"""The paper's tables as data, against figures typed a second time."""

import pytest

from hsproto import config as config_lib
from hsproto import convergence, geometry, published

FIVE = {"cross_entropy", "dot_regression", "normface", "ntce", "nonl"}


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (published.ACCURACY["nonl"]["cifar100"], 73.6),
        (published.ACCURACY["dot_regression"]["imagenet100"], 84.5),
        (published.ACCURACY["ntce"]["imagenet2012"], 76.7),
        (published.ACCURACY_OF_SEEDS["cifar100"]["nonl"], (73.38, 0.28)),
        (published.ACCURACY_OF_SEEDS["cifar10"]["ntce"], (94.68, 0.07)),
        (published.CLASSIFIERS["fp", "mlp"]["imagenet100"], 86.8),
        (published.CLASSIFIERS["nlp", "none"]["imagenet2012"], 72.1),
        (published.CLASSIFIERS["cached_lp", "mlp"], {"cifar10": 94.4, "cifar100": 72.3}),
        (published.GEOMETRY["cifar10"]["nonl"]["erank_intra"], 4.0),
        (published.GEOMETRY["cifar100"]["cross_entropy"]["erank_inter"], 57.1),
        (published.GEOMETRY["cifar100"]["normface"]["hdr"], 0.30),
        (published.GEOMETRY["cifar100"]["scl+fp"]["mir"], 0.87),
        (published.TRANSFER["nonl"]["cars196"], 38.1),
        (published.TRANSFER["dot_regression"]["mean"], 54.6),
        (published.TRANSFER["cross_entropy"]["voc/2007"], 67.1),
        (published.ROBUSTNESS["ntce"], {"clean_error": 23.3, "mce": 77.6}),
        (published.LONG_TAIL["cifar10"]["ntce"][0.01], 77.3),
        (published.LONG_TAIL["cifar100"]["nonl"][0.02], 44.7),
        (published.CONVERGENCE["cifar100"]["95 % of collapse"]["nonl"]["erank_intra"], 14.6),
        (published.CONVERGENCE["cifar100"]["value of the baseline"]["ntce"]["erank_weights"], 73.9),
        (published.BATCH_SIZE["imagenet2012"]["nonl"][2048], 75.0),
        (published.BACKBONE["imagenet100"]["nonl"]["resnet152"], 85.8),
        (published.TEMPERATURE["cifar100"]["nonl"][0.07], 73.2),
        (published.TEMPERATURE["cifar10"]["normface"][0.8], 85.9),
    ],
)
def test_a_figure_is_the_papers(found, value):
    assert found == value


def test_tables_name_losses_data_sets_and_measures_as_the_library_does():
    assert set(published.ACCURACY) == set(published.TRANSFER) == FIVE < set(config_lib.LOSSES)
    assert set(published.ROBUSTNESS) == FIVE
    assert all(set(rows) == FIVE for rows in published.LONG_TAIL.values())
    assert all(set(row) == set(published.CLASSES) for row in published.ACCURACY.values())
    assert set(published.GEOMETRY_MEASURES) < set(geometry.optimum(10))
    assert set(published.CONVERGENCE_MEASURES) == set(convergence.RISES)
    assert set(published.CONVERGENCE["cifar100"]) == {convergence.COLLAPSE, convergence.BASELINE}


def test_accuracies_are_in_per_cent():
    for row in (*published.ACCURACY.values(), *published.CLASSIFIERS.values()):
        assert all(50 < value < 100 for value in row.values())


def test_a_printed_mean_is_that_of_its_row_to_rounding():
    for row in published.TRANSFER.values():
        sets = [row[name] for name in published.TRANSFER_SETS]
        assert sum(sets) / len(sets) == pytest.approx(row["mean"], abs=0.06)


def test_five_seeds_agree_with_the_single_run():
    for name, losses in published.ACCURACY_OF_SEEDS.items():
        for loss, (mean, std) in losses.items():
            assert abs(published.ACCURACY[loss][name] - mean) < 2 * std


def test_the_best_temperature_is_that_of_the_table_of_accuracies():
    for name, losses in published.TEMPERATURE.items():
        for loss, row in losses.items():
            assert max(row.values()) == published.ACCURACY[loss][name]
