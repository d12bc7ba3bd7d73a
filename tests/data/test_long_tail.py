"""Long tails: the profile, which images stay, and what is told of the classes."""

import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from PIL import Image
from small_runs import ROOT, outcome, tiny_config

from hsproto import config as config_lib
from hsproto import config_checks, evaluate, losses, report, train
from hsproto.cli import load_config
from hsproto.core import simplex
from hsproto.data import load as load_lib
from hsproto.data import long_tail, sampler
from hsproto.data.arrays import ArraySource
from hsproto.errors import UserError
from hsproto.evaluation import accuracy
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.runs import summary as summary_lib
from hsproto.training import objective


def arrays(per_class=20, num_classes=4):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(num_classes), per_class))
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones(3, np.uint8)
    return ArraySource(images, labels, [f"class {c}" for c in range(num_classes)])


@pytest.mark.parametrize(
    ("num_classes", "imbalance_factor", "total"),
    [
        (10, 0.1, 20431),
        (10, 0.02, 13996),
        (10, 0.01, 12406),
        (100, 0.1, 19573),
        (100, 0.02, 12608),
        (100, 0.01, 10847),
    ],
)
def test_the_profile_has_the_published_totals(num_classes, imbalance_factor, total):
    counts = long_tail.profile(50_000, num_classes, imbalance_factor)
    assert counts.sum() == total
    assert counts[0] == 50_000 // num_classes
    assert counts[-1] == round(counts[0] * imbalance_factor)


def test_the_profile_of_cifar_10_at_a_hundredth_is_the_published_one():
    assert long_tail.profile(50_000, 10, 0.01).tolist() == [
        5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50,
    ]  # fmt: skip


def test_the_recipe_has_the_papers_protocol():
    config = load_config(f"{ROOT}/configs/longtail.py")
    assert (config.dataset, config.imbalance_factor, config.sampler) == (
        "cifar100",
        0.01,
        "shuffle",
    )
    assert (config.backbone, config.stem, config.embedding) == ("resnet18", "cifar", "pooled")
    assert (config.epochs, config.batch_size) == (1000, 512)
    assert config.base_lr * config.batch_size / config.lr_batch == pytest.approx(0.2)
    assert (config.schedule, config.momentum, config.weight_decay) == ("cosine", 0.9, 1e-4)


def test_a_subset_holds_the_profile_and_images_keep_their_order_and_label():
    source = arrays()
    part = long_tail.subset(source, 0.1, seed=0)
    assert long_tail.class_counts(part).tolist() == [20, 9, 4, 2]
    assert len(part) == 35 and part.class_names == source.class_names
    rows = [int(part[i][0][0, 0, 0]) for i in range(len(part))]
    assert rows == sorted(set(rows))
    assert [part[i][1] for i in range(len(part))] == source.labels[rows].tolist()
    np.testing.assert_array_equal(part.images, source.images[rows])


def test_which_images_stay_is_a_matter_of_the_subset_seed():
    def rows(factor, seed):
        return set(long_tail.subset(arrays(), factor, seed).images[:, 0, 0, 0].tolist())

    assert rows(0.1, 0) == rows(0.1, 0) != rows(0.1, 1)
    assert rows(0.05, 0) < rows(0.1, 0) < rows(0.5, 0), "a smaller factor keeps a part of it"
    assert rows(1.0, 0) == set(range(80))


def test_only_the_training_set_loses_images_and_the_training_seed_has_no_say():
    whole = load_lib.load_splits(tiny_config())
    config = tiny_config(argument="imbalance_factor=0.1,subset_seed=3")
    part = load_lib.load_splits(config)
    # The digits' classes have 139 to 146 images, one of them fewer than the profile's 143.
    expected = np.minimum(long_tail.profile(1437, 10, 0.1), long_tail.class_counts(whole.train))
    assert long_tail.class_counts(part.train).tolist() == expected.tolist()
    np.testing.assert_array_equal(part.test.images, whole.test.images)
    config.seed = 7
    np.testing.assert_array_equal(load_lib.load_splits(config).train.images, part.train.images)


def test_a_subset_of_image_files_can_be_streamed_by_workers(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 10, 9, 12, 3), dtype=np.uint8)
    for split in ("train", "test"):
        for label, images in enumerate(pixels):
            (tmp_path / split / str(label)).mkdir(parents=True)
            for i, image in enumerate(images):
                Image.fromarray(image).save(tmp_path / split / str(label) / f"{i}.png")
    config = config_lib.default()
    config.update(source="folder", data_dir=str(tmp_path), image_size=8, imbalance_factor=0.3)
    part = pickle.loads(pickle.dumps(load_lib.load_splits(config).train))
    part.check()
    assert len(part) == 13 and not hasattr(part, "images")
    for i in range(len(part)):
        picture, label = part.picture(i)
        assert picture.size == (12, 9) and label == part.labels[i] == part[i][1]
        assert np.asarray(picture).tobytes() in {image.tobytes() for image in pixels[label]}


def test_a_class_that_would_lose_every_image_is_named():
    with pytest.raises(UserError, match="imbalance_factor=0.01 leaves .* 'class 2'.* larger"):
        long_tail.subset(arrays(), 0.01, seed=0)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("imbalance_factor=0", "imbalance_factor=0.0 must be above 0"),
        ("imbalance_factor=100", "imbalance_factor=100.0 must be .* at most 1"),
        ("subset_seed=-1", "subset_seed"),
        ("logit_adjustment=-1", "logit_adjustment"),
        ("balanced_lengths=true", "needs loss='dot_regression'; got loss='nonl'"),
        ("logit_adjustment=1", "goes with cross_entropy, normface; got loss='nonl'"),
        ("logit_adjustment=1,loss=normface,sampler=classes", "sampler=shuffle"),
        ("logit_adjustment=1,loss=cross_entropy,batch_binding=true", "batch_binding=false"),
    ],
)
def test_values_that_make_no_sense_are_refused(argument, told):
    config = config_lib.with_argument(config_lib.default(), argument)
    with pytest.raises(UserError, match=told):
        config_checks.validate(config)


def test_runs_that_are_older_than_the_keys_hold_all_images():
    stored = config_lib.default().to_dict()
    for key in ("imbalance_factor", "subset_seed", "logit_adjustment", "balanced_lengths"):
        del stored[key]
    config = config_lib.from_json(json.dumps(stored))
    assert config_lib.differences(config, config_lib.default()) in ([], ["crop_on"])
    assert config.imbalance_factor == 1


def test_balanced_batches_hold_every_class_of_a_tail_alike():
    config = tiny_config(argument="imbalance_factor=0.05,sampler=classes,batch_size=40")
    source = load_lib.load_splits(config).train
    assert long_tail.class_counts(source).min() == 7
    drawn = sampler.make(source, config)
    for number in range(3):
        assert np.bincount(source.labels[drawn.indices(number)]).tolist() == [4] * 10
    seen = np.concatenate([drawn.indices(number) for number in range(36)])
    assert set(seen) == set(range(len(source)))


def test_accuracy_by_shots_is_the_mean_of_its_classes_and_none_of_no_class():
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    predicted = np.array([0, 0, 1, 0, 2, 0, 0, 0])
    by_class = accuracy.accuracy_by_class(predicted, labels, 5)
    np.testing.assert_array_equal(by_class, [1, 0.5, 0.5, 0, np.nan])
    found = accuracy.by_shots({"accuracy": by_class}, np.array([101, 100, 20, 19, 500]))
    assert found == {"accuracy_many": 1.0, "accuracy_medium": 0.5, "accuracy_few": 0.0}
    assert np.isnan(accuracy.by_shots({"a": by_class}, np.full(5, 200))["a_few"])


@pytest.mark.parametrize("loss", ["cross_entropy", "normface"])
def test_logits_shifted_by_the_prior_give_the_adjusted_softmax(loss):
    """Menon et al. 2021, eq. 10: -log( p_y e^{f_y} / Σ_c p_c e^{f_c} ) with p the prior^tau."""
    generator = np.random.default_rng(0)
    features, weights = generator.normal(size=(12, 6)), generator.normal(size=(4, 6))
    labels, counts, tau = np.arange(12) % 4, np.array([50, 20, 5, 1]), 0.7
    options = {"bias": tau * objective.log_prior(counts)}
    if loss == "normface":
        logits = features / np.linalg.norm(features, axis=1, keepdims=True)
        logits = logits @ (weights / np.linalg.norm(weights, axis=1, keepdims=True)).T / 0.2
        options["temperature"] = 0.2
    else:
        logits = features @ weights.T
    weighted = np.exp(logits) * (counts / counts.sum()) ** tau
    expected = -np.log(weighted[np.arange(12), labels] / weighted.sum(axis=1))
    found = getattr(losses, loss)(
        features.astype(np.float32), weights.astype(np.float32), labels, **options
    )
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="bias"):
        getattr(losses, loss)(
            features, weights, labels, **{**options, "bias": np.zeros(3, np.float32)}
        )


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_dot_regression_with_balanced_lengths_weighs_classes_alike(devices):
    """Yang et al. 2022: prototypes of length sqrt((M/K_batch)/n_c) weigh a row by its square."""
    config = config_lib.with_argument(config_lib.default(), "loss=dot_regression")
    features = jax.random.normal(jax.random.key(0), (12, 6))
    frame = simplex.simplex_etf(jax.random.key(1), 4, 6)
    labels = jnp.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2])  # none of class 3
    outputs = model_lib.Outputs(features, features)
    plain = objective.batch_loss(config, outputs, frame, None, labels).values
    config.balanced_lengths = True
    rows = PartitionSpec("data")
    balanced = jax.shard_map(
        lambda outputs, labels: objective.batch_loss(config, outputs, frame, None, labels, "data"),
        mesh=mesh_lib.make_mesh(jax.devices()[:devices]),
        in_specs=(rows, rows),
        out_specs=rows,
    )(outputs, labels)
    weights = (12 / 3) / np.array([6, 4, 2])[np.asarray(labels)]
    np.testing.assert_allclose(balanced.values, plain * weights, rtol=1e-4)
    np.testing.assert_allclose(np.bincount(labels, weights), 4)


def test_a_prior_needs_an_image_of_each_class():
    np.testing.assert_allclose(np.exp(objective.log_prior([3, 1])), [0.75, 0.25], rtol=1e-6)
    with pytest.raises(UserError, match="class 1 has none"):
        objective.log_prior([3, 0])


ARGUMENT = "imbalance_factor=0.02,loss=cross_entropy,epochs=15,eval_every_epochs=15"


@pytest.fixture(scope="module")
def tail_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tail")
    train.train(tiny_config(argument=ARGUMENT), workdir)
    return workdir


@pytest.mark.slow
def test_a_run_on_a_tail_tells_accuracy_by_class_and_by_shots(tail_run, tmp_path, capsys):
    summary = summary_lib.read_summary(tail_run)
    per_class = summary["per_class"]
    counts = np.array(per_class["train_images"])
    images = load_lib.load_splits(tiny_config(argument=ARGUMENT)).train
    assert counts.tolist() == long_tail.class_counts(images).tolist()
    test = np.array(per_class["test_accuracy"])
    sizes = np.bincount(load_lib.load_splits(tiny_config()).test.labels)
    assert np.average(test, weights=sizes) == pytest.approx(summary["test"]["accuracy"])
    groups = {"many": counts > 100, "medium": (counts >= 20) & (counts <= 100), "few": counts < 20}
    for name, group in groups.items():
        assert group.any()
        assert summary["test"][f"accuracy_{name}"] == pytest.approx(test[group].mean())
    assert len(per_class["train_accuracy"]) == 10
    # Frequent classes take from rare ones, and the prior gives back.
    assert test[0] > test[-1]
    gained = summary["test"]["accuracy_adjusted_few"] - summary["test"]["accuracy_few"]
    assert gained > 0

    assert evaluate.main([f"--workdir={tail_run}", "--logit_adjustment=0"]) == 0
    told = {line.split()[0]: line.split()[-3] for line in capsys.readouterr().out.splitlines()}
    assert told["accuracy_adjusted"] == told["accuracy"] == f"{summary['test']['accuracy']:.4f}"
    with pytest.raises(UserError, match="logit_adjustment"):
        evaluate.main([f"--workdir={tail_run}", "--logit_adjustment=-1"])
    assert report.main([str(tail_run), f"--out={tmp_path}"]) == 0
    assert "| accuracy_few |" in (tmp_path / "report.md").read_text()


def test_a_group_without_a_class_is_null_and_a_dash(tail_run, tmp_path, capsys):
    workdir = shutil.copytree(tail_run, tmp_path / "run")
    path = workdir / "summary.json"
    summary = json.loads(path.read_text())
    for split in ("test", "train"):
        summary[split]["accuracy_medium"] = None
    row = next(
        r for r in summary_lib.format_table(summary).splitlines() if r.startswith("accuracy_medium")
    )
    assert row.split()[-3:] == ["-", "-", "-"]


@pytest.mark.slow
def test_training_with_adjusted_logits_gives_to_the_rare_classes(tail_run, tmp_path):
    train.train(tiny_config(argument=f"{ARGUMENT},logit_adjustment=1"), tmp_path)
    _, adjusted = outcome(tmp_path)
    _, plain = outcome(tail_run)
    assert adjusted["test"]["accuracy_few"] > plain["test"]["accuracy_few"]
    assert "accuracy_adjusted" not in adjusted["test"]
