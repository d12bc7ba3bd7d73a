"""The scikit-learn estimator: scikit-learn's own checks, every loss, classes added, bad input."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import hsproto
from hsproto.methods import LOSSES


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, test_size=0.3, random_state=0, stratify=y)


@pytest.fixture(scope="module")
def fitted(digits):
    return hsproto.PrototypeClassifier(epochs=40).fit(digits[0], digits[2])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_it_passes_all_checks_of_scikit_learn():
    results = check_estimator(hsproto.PrototypeClassifier(), on_fail=None)
    # Skipped is what needs pandas or SciPy's array API, where they are not there.
    not_passed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not_passed == {}
    assert len(results) > 50


def test_it_classifies_as_well_as_logistic_regression(digits, fitted):
    X, X_test, y, y_test = digits
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    assert fitted.score(X_test, y_test) > linear.score(X_test, y_test) - 0.01


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(loss):
    X, y = make_blobs(200, centers=4, n_features=6, random_state=0, cluster_std=0.5)
    classifier = hsproto.PrototypeClassifier(loss, epochs=60).fit(X, y)
    assert classifier.score(X, y) > 0.97
    probabilities = classifier.predict_proba(X)
    assert (np.argmax(probabilities, axis=1) == classifier.predict(X)).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_embeddings_and_prototypes_are_of_unit_length(digits, fitted):
    np.testing.assert_allclose(np.linalg.norm(fitted.transform(digits[1]), axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(fitted.prototypes_, axis=1), 1)
    assert fitted.get_feature_names_out()[0] == "prototypeclassifier0"


def test_the_seed_decides_alone(digits):
    X, _, y, _ = digits
    a, b, c = (
        hsproto.PrototypeClassifier(epochs=2, hidden_layers=(20,), seed=s).fit(X, y).prototypes_
        for s in (1, 1, 2)
    )
    assert (a == b).all() and not np.allclose(a, c)


def test_it_works_in_pipelines_and_grid_search_pickled_and_cloned(digits):
    X, X_test, y, _ = digits
    pipeline = make_pipeline(StandardScaler(), hsproto.PrototypeClassifier(epochs=8))
    grid = {"prototypeclassifier__temperature": [0.1, 0.3]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X[:300], y[:300])
    assert search.best_score_ > 0.7
    copied = pickle.loads(pickle.dumps(search.best_estimator_))
    assert (copied.predict(X_test) == search.predict(X_test)).all()
    assert clone(copied[-1]).get_params() == copied[-1].get_params()


def test_a_class_is_added_without_training(digits):
    X, X_test, y, y_test = digits
    old = y < 9
    classifier = hsproto.PrototypeClassifier(hidden_layers=(), epochs=30).fit(X[old], y[old])
    before = classifier.score(X_test[y_test < 9], y_test[y_test < 9])
    kept = classifier.prototypes_.copy()
    classifier.add_class(9, X[~old][:20])
    assert classifier.classes_.tolist() == list(range(10))
    assert (classifier.prototypes_[:9] == kept).all()
    assert (classifier.predict(X_test[y_test == 9]) == 9).mean() > 0.5
    assert classifier.score(X_test[y_test < 9], y_test[y_test < 9]) > before - 0.1
    with pytest.raises(ValueError, match="there is a class 9 already"):
        classifier.add_class(9, X[~old])


def test_rows_in_parts_give_the_prototypes_of_all_rows(digits):
    X, _, y, _ = digits
    base = hsproto.PrototypeClassifier("scl", epochs=2).fit(X[:200], y[:200] % 5)
    at_once, in_parts = (pickle.loads(pickle.dumps(base)) for _ in range(2))
    at_once.partial_fit(X[200:400], y[200:400])
    for rows in (slice(200, 270), slice(270, 400)):
        in_parts.partial_fit(X[rows], y[rows], classes=range(10))
    np.testing.assert_allclose(in_parts.prototypes_, at_once.prototypes_)
    assert in_parts.classes_.tolist() == list(range(10))


@pytest.mark.parametrize(
    "params, message",
    [
        (dict(loss="nope"), "loss='nope' must be one of cross_entropy"),
        (dict(temperature=0), "temperature=0 must be a positive number"),
        (dict(hidden_layers=(8, -1)), "hidden_layers=.* must be positive and whole"),
        (dict(hidden_layers=(-1, 8)), "hidden_layers=.* must be positive and whole"),
        (dict(hidden_layers=64), r"hidden_layers=64 must be widths, e.g. \(256,\)"),
        (dict(embedding_dim=2.5), "embedding_dim=2.5 must be positive and whole"),
        (dict(loss="dot_regression", embedding_dim=2), "need 3 dimensions"),
        (dict(batch_size=1), "compares the rows of a batch"),
        (dict(seed=-1), "seed=-1 must be zero or a positive whole number"),
        (dict(weight_decay=-1), "weight_decay=-1 must be zero or positive"),
    ],
)
def test_bad_parameters_are_named(params, message):
    X, y = make_blobs(40, centers=4, random_state=0)
    with pytest.raises(ValueError, match=message):
        hsproto.PrototypeClassifier(**params).fit(X, y)


def test_cross_entropy_has_no_class_means_to_add():
    X, y = make_blobs(40, centers=3, random_state=0)
    classifier = hsproto.PrototypeClassifier("cross_entropy", epochs=2).fit(X, y)
    with pytest.raises(ValueError, match="use another loss"):
        classifier.add_class(7, X)


def test_labels_of_another_kind_are_refused():
    X, y = make_blobs(40, centers=3, random_state=0)
    classifier = hsproto.PrototypeClassifier(epochs=2).fit(X, y)
    with pytest.raises(ValueError, match="'bird'"):
        classifier.add_class("bird", X)
    with pytest.raises(ValueError, match="not one of classes"):
        classifier.partial_fit(X, y, classes=[0, 1])


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    assert hsproto.__version__
    assert "PrototypeClassifier" in dir(hsproto)
    with pytest.raises(AttributeError, match="no attribute 'Prototypes'"):
        hsproto.Prototypes  # noqa: B018
