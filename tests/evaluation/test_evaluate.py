"""Evaluation, probing, prediction and report of runs, as their users call them."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from small_runs import outcome, tiny_config

from hsproto import evaluate, geometry, predict, prototypes, report, train
from hsproto import metrics as metrics_lib
from hsproto.data import augment, loader
from hsproto.data import load as load_lib
from hsproto.errors import UserError
from hsproto.evaluation import evaluator, probe, trained
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.reporting.figures import runs as run_figures
from hsproto.reporting.figures import style
from hsproto.runs import predictions_file
from hsproto.runs import summary as summary_lib


def opened(workdir):
    mesh = mesh_lib.make_mesh()
    config, state, _ = trained.load_state(workdir, mesh)
    splits = load_lib.load_splits(config)
    return (
        config,
        state,
        evaluator.Loaders(*(loader.open_loader(s, config, mesh) for s in splits)),
        mesh,
    )


def embed(config, state, images):
    model, preprocess = model_lib.build(config, 10), augment.make_preprocess(config)
    variables = jax.device_get(state.variables)
    return model_lib.forward(model, variables, preprocess(images), train=False)[0]


def test_a_run_keeps_what_it_takes_each_test_image_for(digits_run, tmp_path):
    _, summary = outcome(digits_run)
    _, _, loaders, _ = opened(digits_run)
    kept = predictions_file.read(str(digits_run), summary["step"], 10)
    np.testing.assert_array_equal(kept.labels, loader.read_all(loaders.test.source)[1])
    assert kept.right().mean() == summary["test"]["accuracy"]
    # A run of an earlier version gets them when it is measured, at its end alone.
    old = shutil.copytree(digits_run, tmp_path / "old")
    (old / predictions_file.NAME).unlink()
    first = min(int(path.name) for path in (old / "checkpoints").iterdir() if path.name.isdigit())
    for step, there in ((first, False), (summary["step"], True)):
        assert evaluate.main([f"--workdir={old}", f"--checkpoint={step}"]) == 0
        assert (old / predictions_file.NAME).exists() == there
    again = predictions_file.read(str(old), summary["step"], 10)
    np.testing.assert_array_equal(again.predicted, kept.predicted)


def test_evaluation_equals_doing_it_by_hand(digits_run):
    config, state, loaders, mesh = opened(digits_run)
    images, labels = loader.read_all(loaders.test.source)
    features = embed(config, state, images).features
    with np.load(digits_run / "prototypes.npz") as stored:
        learned = stored["prototypes"]
    _, summary = outcome(digits_run)
    accuracy = np.mean(np.asarray(prototypes.predict(features, learned)) == labels)
    assert summary["test"]["accuracy"] == pytest.approx(accuracy, abs=1e-9)
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    weights = learned / np.linalg.norm(learned, axis=1, keepdims=True)
    by_hand = geometry.neural_collapse(directions, labels, weights, num_classes=10)
    assert not any(
        key in summary["test"] for key in set(metrics_lib.LONG_TAIL) - set(metrics_lib.METRICS)
    ), "of balanced sets"
    for key, value in by_hand.items():
        assert summary["test"][key] == pytest.approx(float(value), rel=2e-3, abs=1e-4), key


def test_the_command_evaluates_any_kept_checkpoint(digits_run, capsys):
    assert evaluate.main([f"--workdir={digits_run}"]) == 0
    _, summary = outcome(digits_run)
    assert f"{summary['test']['accuracy']:.4f}" in capsys.readouterr().out
    with pytest.raises(UserError, match="no checkpoint of step 99999.*available: "):
        evaluate.main([f"--workdir={digits_run}", "--checkpoint=99999"])
    with pytest.raises(UserError, match="no run there"):
        evaluate.main([f"--workdir={digits_run}/none"])


def test_encoder_runs_are_classified_by_exact_class_means_of_the_heads_outputs(scl_run):
    config, state, loaders, _ = opened(scl_run)
    images, labels = loader.read_all(loaders.train.source)
    heads = np.asarray(embed(config, state, images).projections, np.float64)
    heads /= np.linalg.norm(heads, axis=1, keepdims=True)
    means = np.stack([heads[labels == c].mean(axis=0) for c in range(10)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    with np.load(scl_run / "prototypes.npz") as stored:
        np.testing.assert_allclose(stored["prototypes"], means, atol=1e-5)
    _, summary = outcome(scl_run)
    assert summary["test"]["accuracy"] == summary["test"]["accuracy_class_means"]
    assert summary["train"]["class_alignment"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_probing_compares_four_classifiers_on_one_frozen_encoder(scl_run, capsys):
    config, state, loaders, mesh = opened(scl_run)
    before = jax.device_get(state)
    protocol = probe.Protocol(epochs=4, learning_rate=0.5, decay_epochs=(2, 3))
    results = probe.compare_classifiers(config, state.variables, loaders, mesh, protocol)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), before)
    assert list(results) == list(probe.METHODS)
    _, summary = outcome(scl_run)
    assert results["fp"]["test"] == summary["test"]
    for method, passes in {"fp": 1, "lp": 4, "nlp": 4, "cached_lp": 1}.items():
        assert results[method]["passes"] == passes and results[method]["seconds"] > 0
        assert results[method]["test"]["accuracy"] > 0.5
    assert "cached_lp" in probe.format_table(results)


def test_the_probe_command_writes_its_results(scl_run, capsys):
    arguments = [f"--workdir={scl_run}", "--methods=fp,cached_lp", "--epochs=2"]
    assert probe.main([*arguments, "--learning_rate=0.5", "--decay_epochs=1"]) == 0
    written = json.loads((scl_run / "probe.json").read_text())
    assert set(written) == {"step", "fp", "cached_lp"}
    for wrong in ("--methods=svm", "--decay_epochs=a", "--epochs=-1"):
        with pytest.raises(UserError, match=wrong.partition("=")[0].strip("-")):
            probe.main([f"--workdir={scl_run}", "--methods=lp", wrong])


def test_prediction_names_the_nearest_prototypes(digits_run, tmp_path, capsys):
    source = load_lib.load_splits(tiny_config()).train
    files, labels = [], []
    for i in range(20):
        image, label = source[i]
        files.append(str(tmp_path / f"{i}.png"))
        labels.append(label)
        Image.fromarray(image[..., 0]).save(files[-1])
    assert predict.main([f"--workdir={digits_run}", "--top=2", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    right = 0
    for line, file, label in zip(lines, files, labels, strict=True):
        path, _, rest = line.partition(": ")
        first, cosine, _, second = rest.split()
        assert path == file and float(cosine) >= float(second)
        right += first == str(label)
    assert right >= 15


def test_prediction_refuses_a_folder_that_holds_no_run(tmp_path):
    with pytest.raises(UserError, match="no run there"):
        predict.main([f"--workdir={tmp_path}", "any.png"])


@pytest.mark.slow
def test_the_report_has_a_row_and_two_pictures_a_run(digits_run, scl_run, tmp_path, capsys):
    assert report.main([str(digits_run), str(scl_run), f"--out={tmp_path}"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| nonl |" in text and "| scl |" in text
    assert len(list(tmp_path.glob("*/cosines.png"))) == 2
    with Image.open(next(tmp_path.glob("*/training.png"))) as picture:
        assert picture.size[0] > 1000
    with pytest.raises(UserError, match="no such folder"):
        report.main([str(tmp_path / "none"), f"--out={tmp_path}"])


@pytest.mark.parametrize(
    "names", [("a", "b"), ("$\\foo$", "a$b$", "a name that is rather long", "木")]
)
def test_cosines_are_drawn_of_any_number_of_classes_by_any_name(names, tmp_path, recwarn):
    means = np.eye(len(names)) - 1 / len(names)
    arrays = {"prototypes": means, "class_means": means, "class_names": list(names)}
    style.save(run_figures.cosine_figure(arrays), [tmp_path / "cosines.png"])
    assert (tmp_path / "cosines.png").stat().st_size > 1000 and not recwarn.list


def opening(workdir):
    """The commands that open one run, and the resumption of it."""
    yield lambda: evaluate.main([f"--workdir={workdir}"])
    yield lambda: probe.main([f"--workdir={workdir}", "--methods=fp"])
    yield lambda: predict.main([f"--workdir={workdir}", "any.png"])
    yield lambda: train.train(tiny_config(), workdir)


DAMAGE = {
    "config.json": ({"seed": []}, {"width": "wide"}, {"of_tomorrow": 1}, {"backbone": "resnet9"},
                    {"batch_size": 0}, {"bn_groups": 7}),
    "prototypes.npz": (),
    "summary.json": ({"step": "x"}, {"test": {"nc1": []}}),
}  # fmt: skip


@pytest.mark.parametrize("file", DAMAGE)
def test_a_damaged_file_of_a_workdir_is_named_by_every_command_that_opens_it(
    file, digits_run, tmp_path
):
    workdir = shutil.copytree(digits_run, tmp_path / "run")
    whole = (workdir / file).read_bytes()
    damaged = [b"", whole[:40], b"[" * 100_000, b"no such content"]
    for values in DAMAGE[file]:
        damaged.append(json.dumps(json.loads(whole) | values).encode())
    # A command that does not open the file would work, and takes its time.
    commands = {"config.json": slice(4), "prototypes.npz": slice(2, 3), "summary.json": slice(3, 4)}
    for content in damaged:
        (workdir / file).write_bytes(content)
        for command in list(opening(workdir))[commands[file]]:
            with pytest.raises(UserError) as caught:
                command()
            assert "\n" not in str(caught.value) and "run" in str(caught.value)


def test_prototypes_of_another_run_are_refused(digits_run, tmp_path):
    workdir = shutil.copytree(digits_run, tmp_path / "run")
    rows, names = np.eye(10, 7), [str(c) for c in range(10)]
    np.savez(workdir / "prototypes.npz", prototypes=rows, class_means=rows, class_names=names)
    with pytest.raises(UserError, match=r"of shape \(10, 7\), the run's are \(10, "):
        predict.main([f"--workdir={workdir}", "any.png"])


def test_the_table_shows_what_is_undefined_as_a_dash(digits_run):
    summary = summary_lib.read_summary(digits_run)
    summary["test"]["nc1"] = None
    row = next(r for r in summary_lib.format_table(summary).splitlines() if r.startswith("nc1 "))
    assert row.split()[-3] == "-"
