"""Intervals, corrected tests and verdicts of a study, and the file that they are computed from."""

import json

import numpy as np
import pytest

from hsproto import report
from hsproto.errors import UserError
from hsproto.reporting.claims import claims, paired, records, tables
from hsproto.reporting.claims import collapse as collapse_lib

SEEDS, IMAGES = 5, 400


def run_of(method, seed, rate, study="accuracy", dataset="cifar10", variant="", **metrics):
    random = np.random.default_rng((seed, int(1000 * rate)))
    right = random.random(IMAGES) < rate
    found = {"accuracy": float(right.mean()), "nc1": 1.0 + seed / 100} | metrics
    return records.Run(study, "linear", dataset, method, variant, seed, {}, found, right)


def records_of(runs, trials=()):
    methods = {
        "ce": records.Method("CE", "cross_entropy"),
        "normface": records.Method("NormFace", "normface"),
        "ntce": records.Method("NTCE", "ntce"),
        "nonl": records.Method("NONL", "nonl"),
    }
    return records.Records("heads", "ce", methods, list(trials), list(runs), {"jax": "1"})


def accuracies(rates, **kwargs):
    return [run_of(m, s, rate, **kwargs) for m, rate in rates.items() for s in range(SEEDS)]


def judged(found, first, second, metric="accuracy"):
    comparisons = claims.Comparisons(found)
    (claim,) = [
        c for c in claims.CLAIMS["heads"]
        if (c.first, c.second, c.metric, c.study) == (first, second, metric, "accuracy")
    ]  # fmt: skip
    return claims.judge(claim, comparisons)


def test_an_interval_over_images_is_as_wide_as_theory_says():
    first, second = np.ones((SEEDS, 2000), bool), np.ones((SEEDS, 2000), bool)
    second[:, :200] = False  # the same images in all seeds: only the images vary
    found = paired.of_images(first, second)
    error = np.sqrt(0.1 * 0.9 / 2000)
    assert found.mean == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert found.p == 1 / paired.SAMPLES


def test_variants_of_an_image_are_drawn_with_it():
    random = np.random.default_rng(0)
    first, second = random.random((2, SEEDS, 200)) < np.array([0.8, 0.6])[:, None, None]
    alone = paired.of_images(first, second)
    counts = [75 * rows.astype(np.uint8) for rows in (first, second)]
    assert paired.of_images(*counts, 75) == pytest.approx(alone)
    runs = [
        run_of(method, seed, 0.5, study="robustness", corrupted=float(rows[seed].mean()))._replace(
            by_image={"corrupted": records.ByImage(75, 75 * rows[seed].astype(np.uint8))}
        )
        for method, rows in (("nonl", first), ("ce", second))
        for seed in range(SEEDS)
    ]
    gap = claims.difference(runs[:SEEDS], runs[SEEDS:], "corrupted")
    assert gap == pytest.approx(alone)


def test_an_interval_over_seeds_is_student_s():
    found = paired.of_seeds([0.52, 0.55, 0.51, 0.54], [0.5, 0.5, 0.5, 0.5])
    assert found.mean == pytest.approx(0.03)
    # sd 0.018257, standard error 0.0091287, t(0.975, 3) = 3.18245
    assert (found.low, found.high) == pytest.approx((0.03 - 0.029052, 0.03 + 0.029052), abs=1e-6)
    assert found.p == pytest.approx(0.0463, abs=5e-4)
    assert paired.of_seeds([0.5, 0.5], [0.5, 0.5]).p == 1
    assert paired.of_seeds([0.6, 0.6], [0.5, 0.5]).p == 0


def test_intervals_cover_the_truth_as_often_as_they_say():
    covered = 0
    for trial in range(40):
        random = np.random.default_rng(trial)
        skill = random.random(IMAGES)[None, :]
        rows = [random.random((20, IMAGES)) < skill * share for share in (0.9, 0.8)]
        found = paired.of_images(*rows)
        covered += found.low <= 0.05 <= found.high
    assert 34 <= covered <= 40  # 38 expected


def test_what_few_seeds_contribute_is_not_too_little():
    first, second = (np.zeros((2, 1000), bool) for _ in range(2))
    first[0, :300], first[1, :100] = True, True  # per seed 0.3 and 0.1 above, the same images
    found = paired.of_images(first, second)
    # The seeds' standard error is 0.1; two seeds drawn with replacement would give 0.0707.
    assert (found.low, found.high) == pytest.approx((0.2 - 0.1414, 0.2 + 0.1414), abs=0.03)


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="at least two"):
        paired.of_seeds([0.5], [0.4])


def test_holm_is_that_of_the_textbook():
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.5, 0.9]) == [1.0, 1.0]
    assert paired.holm([]) == []


@pytest.mark.parametrize(
    "nonl, word", [(0.8, claims.HOLDS), (0.5, claims.OPEN), (0.2, claims.FAILS)]
)
def test_a_verdict_follows_the_difference(nonl, word):
    verdict = judged(records_of(accuracies({"ce": 0.5, "nonl": nonl})), "nonl", "ce")
    assert verdict.word == word and len(verdict.cells) == 1


def test_sets_that_contradict_each_other_leave_a_claim_open():
    runs = accuracies({"ce": 0.5, "nonl": 0.8})
    runs += accuracies({"ce": 0.5, "nonl": 0.2}, dataset="cifar100")
    verdict = judged(records_of(runs), "nonl", "ce")
    assert [cell.outcome for cell in verdict.cells.values()] == [1, -1]
    assert verdict.word == claims.OPEN and verdict.sets == 2


def test_variants_of_one_set_count_as_one():
    tails = {"rho=0.1": 0.9, "rho=0.02": 0.9, "rho=0.01": 0.9}
    runs = [
        run for variant, rate in tails.items()
        for run in accuracies({"ce": 0.5, "nonl": rate}, study="longtail", variant=variant)
    ]  # fmt: skip
    other = {"study": "longtail", "dataset": "cifar100", "variant": "rho=0.1"}
    (claim,) = [
        c for c in claims.CLAIMS["heads"]
        if (c.first, c.second, c.study, c.second_study) == ("nonl", "ce", "longtail", "")
    ]  # fmt: skip
    for rate, word in ((0.5, claims.OPEN), (0.9, claims.HOLDS), (0.1, claims.OPEN)):
        found = records_of(runs + accuracies({"ce": 0.5, "nonl": rate}, **other))
        verdict = claims.judge(claim, claims.Comparisons(found))
        assert (verdict.word, verdict.sets, len(verdict.cells)) == (word, 2, 4)


def test_what_the_protocol_has_and_was_not_run_is_a_dash():
    found = records_of(accuracies({"ce": 0.5, "nonl": 0.8}))
    places = [("cifar100", ""), ("cifar10", "")]
    found = found._replace(studies={"accuracy": records.Study("balanced sets", places)})
    verdict = judged(found, "nonl", "ce")
    assert list(verdict.cells) == places and verdict.cells["cifar100", ""] is None
    assert verdict.word == claims.HOLDS and verdict.sets == 1
    made = {table.name: table for table in tables.build(found)}
    rows = ((text, cells[1]) for (text, _), cells in made["verdicts"].rows)
    effect = next(effect for text, effect in rows if text.startswith("NONL is more"))
    assert effect.startswith("cifar100 -; cifar10 +")
    assert made["accuracy_accuracy"].columns[0] == "cifar100"
    assert made["accuracy_accuracy"].title == "Balanced sets: accuracy"
    assert all(cells[:2] == (None, None) for _, cells in made["accuracy_accuracy"].rows)
    assert made["geometry_accuracy"].rows[0][0] == ("cifar100", "not run")


def test_long_tails_are_compared_with_logits_that_are_adjusted():
    tail = accuracies({"ce": 0.4, "ntce": 0.6}, study="longtail", variant="rho=0.1")
    adjusted = accuracies({"ce": 0.8}, study="longtail_adjusted", variant="rho=0.1,adjusted")
    claim, _ = (c for c in claims.CLAIMS["heads"] if c.second_study and c.first == "ntce")
    assert claim.second_study == "longtail_adjusted"
    for runs, word in ((tail, None), (tail + adjusted, claims.FAILS)):
        assert claims.judge(claim, claims.Comparisons(records_of(runs))).word == word


def test_what_was_not_run_has_no_verdict():
    assert judged(records_of(accuracies({"ce": 0.5})), "nonl", "ce").word is None
    one = [run_of("ce", 0, 0.5), run_of("nonl", 0, 0.9)]
    assert judged(records_of(one), "nonl", "ce").word is None


def test_a_smaller_measure_confirms_a_claim_of_collapse():
    runs = accuracies({"ce": 0.5}, nc1=3.0) + accuracies({"nonl": 0.5}, nc1=1.0)
    assert judged(records_of(runs), "nonl", "ce", "nc1").word == claims.HOLDS


def test_seeds_that_diverged_are_left_out_of_differences_and_counted():
    runs = accuracies({"ce": 0.5, "nonl": 0.8})
    runs[-1] = runs[-1]._replace(metrics=None, right=np.zeros(0, bool))
    (cell,) = judged(records_of(runs), "nonl", "ce").cells.values()
    assert cell.difference.seeds == SEEDS - 1
    table = next(t for t in tables.build(records_of(runs)) if t.name == "accuracy_accuracy")
    assert table.rows[-1][1][0].undefined == 1


def test_level_needs_an_interval_within_half_a_point():
    ce = accuracies({"ce": 0.5})
    same = [run._replace(method="scl_fp") for run in ce]
    found = records_of(ce + same)
    found.methods["scl_fp"] = records.Method("SCL+FP", "scl")
    assert judged(found, "scl_fp", "ce").word == claims.HOLDS
    far = accuracies({"scl_fp": 0.3})
    assert judged(found._replace(runs=ce + far), "scl_fp", "ce").word == claims.FAILS


def trial(number, held_out, method="ce"):
    metrics = None if held_out is None else {"nc1": 1.0 / held_out, "train_accuracy": 0.9}
    values = {"base_lr": f"{number}"}
    return records.Trial("linear", "cifar10", method, number, values, held_out, metrics)


def test_the_best_trial_is_chosen_and_divergence_loses():
    found = records_of([], [trial(0, None), trial(1, 0.5), trial(2, 0.6), trial(3, 0.6)])
    assert records.chosen(found, "linear", "cifar10", "ce").trial == 2
    assert records.chosen(found, "linear", "cifar10", "nonl") is None
    assert records.chosen(records_of([], [trial(0, None)]), "linear", "cifar10", "ce") is None


def test_records_are_read_as_they_were_written(tmp_path):
    runs = accuracies({"ce": 0.5, "nonl": 0.8})
    runs.append(run_of("ce", 9, 0.5)._replace(metrics=None, right=np.zeros(0, bool)))
    counts = np.array([0, 75, 3], np.uint8)
    runs[0] = runs[0]._replace(by_image={"corrupted": records.ByImage(75, counts)})
    found = records_of(runs, [trial(0, 0.5), trial(1, None)])
    records.write(str(tmp_path / "heads.json"), found)
    again = records.read(tmp_path / "heads.json")
    assert again.trials == found.trials and again.methods == found.methods
    for one, other in zip(again.runs, found.runs, strict=True):
        assert one._replace(right=0, by_image=0) == other._replace(right=0, by_image=0)
        np.testing.assert_array_equal(one.right, other.right)
    assert again.runs[0].by_image["corrupted"].of == 75
    np.testing.assert_array_equal(again.runs[0].by_image["corrupted"].counts, counts)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda found: found | {"version": 9}, "newer version"),
        (lambda found: {"version": 1}, "no file of a study's runs"),
        (lambda found: found | {"runs": [found["runs"][0] | {"right": "9:xx"}]}, "no file of"),
        (lambda found: found | {"runs": 2 * found["runs"][:1]}, "twice"),
        (lambda found: [], "no file of"),
    ],
)
def test_a_wrong_file_is_told(tmp_path, damage, message):
    path = tmp_path / "heads.json"
    records.write(str(path), records_of(accuracies({"ce": 0.5})))
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=message):
        records.read(path)


def test_a_report_of_records_has_all_tables(tmp_path, capsys):
    runs = accuracies({"ce": 0.5, "normface": 0.6, "nonl": 0.8}, ood_knn_a=0.5, ood_knn_b=0.7)
    path = tmp_path / "heads.json"
    records.write(str(path), records_of(runs, [trial(0, 0.5), trial(1, None)]))
    assert report.main([str(path), f"--out={tmp_path / 'out'}"]) == 0
    text = (tmp_path / "out/report.md").read_text()
    assert "| NONL is more accurate than CE | Table 1 | holds (n=1) |" in text
    assert "| 60.00 ± 0.00 (n=5) |" in text  # the mean of both other sets
    assert "OOD, 50th neighbor: a | OOD, 50th neighbor: b |" in text
    assert "| linear | cifar10 | CE | base\\_lr 0 | 50.00 | 2 | 1 |".replace("\\_", "_") in text
    assert "## Verdicts" in capsys.readouterr().out


def test_another_value_is_compared_with_the_chosen_one_of_the_same_method_and_seeds():
    runs = accuracies({"ce": 0.9, "ntce": 0.5, "nonl": 0.5})
    other = accuracies({"ntce": 0.7, "nonl": 0.2}, study="causes", variant="ReLU", nc1=7.0)
    runs += [run for run in other if run.seed < 3]
    found = records_of(runs)
    table = tables.variants(found, claims.Comparisons(found), "causes", "cifar10")
    assert [labels for labels, _ in table.rows] == [("as chosen",), ("ReLU",)]
    assert table.columns[:4] == ("NTCE", "NTCE, less as chosen", "NTCE, NC1", "NONL")
    (_, chosen), (_, cells) = table.rows
    assert chosen[1] is None and chosen[0].n == 5 and cells[0].n == 3 and cells[2].mean == 7
    gap = claims.difference(other[:3], runs[5:8], "accuracy")
    assert cells[1].startswith(f"{100 * gap.mean:+.2f} [") and cells[4].startswith("-")


def test_accuracy_and_nc1_of_runs_from_scratch_are_told_by_epoch():
    by_epoch = {f"{name}@{epoch}": epoch / 30 for name in ("nc1", "accuracy") for epoch in (30, 6)}
    found = records_of(accuracies({"ce": 0.5, "nonl": 0.6}, study="scratch", **by_epoch))
    (table,) = [t for t in tables.build(found) if t.name == "convergence_scratch"]
    assert table.columns == (
        "accuracy, epoch 6", "accuracy, epoch 30", "NC1, epoch 6", "NC1, epoch 30",
        "epoch of 95 % of the last accuracy", "epoch of CE's accuracy", "epoch of CE's NC1",
    )  # fmt: skip
    assert [cell.mean for cell in table.rows[0][1][:4]] == pytest.approx([20, 100, 0.2, 1])
    assert [cells[4] for _, cells in table.rows] == ["30, 30, 30, 30, 30"] * 2


def test_convergence_is_the_epoch_from_which_on_a_value_stays():
    by_epoch = {
        "ce": {"accuracy@6": 0.3, "accuracy@12": 0.5, "nc1@6": 3.0, "nc1@12": 2.0},
        "nonl": {"accuracy@6": 0.48, "accuracy@12": 0.49, "nc1@6": 1.0, "nc1@12": 1.5},
    }
    runs = [run_of(m, 0, 0.5, study="scratch", **curve) for m, curve in by_epoch.items()]
    (table,) = [t for t in tables.build(records_of(runs)) if t.name == "convergence_scratch"]
    reached = {labels[1]: cells[-3:] for labels, cells in table.rows}
    assert reached == {"CE": ("12", "12", "12"), "NONL": ("6", "-", "6")}
    assert not [t for t in tables.build(records_of([])) if t.name.startswith("convergence")]


def test_collapse_that_helps_is_told_from_training_accuracy_that_does():
    random = np.random.default_rng(0)
    fitted, collapse, noise = random.normal(size=(3, 200))
    helped = collapse + 2 * fitted + 0.1 * noise
    assert collapse_lib.partial(collapse, helped, fitted) > 0.9
    only_fitted = 2 * fitted + 0.1 * noise
    assert abs(collapse_lib.partial(collapse + fitted, only_fitted, fitted)) < 0.2
    assert collapse_lib.partial(collapse[:3], helped[:3], fitted[:3]) is None
    assert collapse_lib.partial(np.ones(9), helped[:9], fitted[:9]) is None
