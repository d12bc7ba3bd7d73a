"""Logistic regression: the solutions are scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from hsproto.evaluation import logistic_regression
from hsproto.parallel import mesh as mesh_lib

ROWS = 320


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    return features[: ROWS + 80].astype(np.float32), labels[: ROWS + 80]


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.make_mesh(jax.devices()[:2])


def problem(features, targets, mesh, where=None, num_classes=10):
    where = np.ones(len(features), bool) if where is None else where
    features = jax.device_put(jnp.asarray(features), mesh_lib.over_batch(mesh))
    return logistic_regression.LogisticRegression(features, targets, num_classes, where, mesh)


def assert_same(found, weights, bias, features):
    assert found.converged
    np.testing.assert_allclose(found.weights, weights, atol=1e-3 * np.abs(weights).max())
    probabilities = [
        jax.nn.softmax(features @ w.T + b)
        for w, b in ((found.weights, found.bias), (weights, bias))
    ]
    np.testing.assert_allclose(*probabilities, atol=1e-3)


def reference(penalty, features, labels):
    classifier = LogisticRegression(C=1 / penalty, solver="newton-cg", tol=1e-9, max_iter=1000)
    return classifier.fit(features.astype(float), labels)


@pytest.mark.slow
def test_solutions_along_the_path_are_those_of_scikit_learn(digits, mesh):
    features, labels = digits
    where = np.arange(len(labels)) < ROWS
    solver, solution = problem(features, labels, mesh), None
    for penalty in (1e3, 10.0, 1.0, 0.1):
        solution = solver.fit(where, penalty, solution)
        expected = reference(penalty, features[:ROWS], labels[:ROWS])
        assert_same(solution, expected.coef_, expected.intercept_, features)


def test_where_the_search_begins_does_not_matter(digits, mesh):
    features, labels = digits
    solver, where = problem(features, labels, mesh), np.ones(len(labels), bool)
    cold = solver.fit(where, 10.0)
    warm = solver.fit(where, 10.0, solver.fit(where, 1e4))
    assert_same(warm, cold.weights, cold.bias, features)
    again = solver.fit(where, 10.0, warm)
    assert again.iterations < cold.iterations


def test_neither_shift_nor_scale_of_the_features_changes_what_is_solved(digits, mesh):
    features, labels = digits
    far = (0.01 * features + 5).astype(np.float32)
    found = problem(far, labels, mesh).fit(np.ones(len(labels), bool), 1e-3)
    expected = reference(1e-3, far, labels)
    assert_same(found, expected.coef_, expected.intercept_, far)


def test_one_against_the_rest_is_a_problem_for_each_class(digits, mesh):
    features, labels = digits
    targets = (labels[:, None] == np.arange(3)).astype(np.int8)
    targets[:40, 1] = -1  # do not count for class 1
    found = problem(features, targets, mesh, num_classes=3).fit(np.ones(len(labels), bool), 10.0)
    rows = [targets[:, label] >= 0 for label in range(3)]
    each = [reference(10.0, features[r], targets[r, c]) for c, r in enumerate(rows)]
    weights = np.concatenate([one.coef_ for one in each])
    np.testing.assert_allclose(found.weights, weights, atol=1e-3 * np.abs(weights).max())
    bias = np.concatenate([one.intercept_ for one in each])
    np.testing.assert_allclose(found.bias, bias, atol=1e-3 * np.abs(bias).max())


def test_padding_counts_for_nothing(digits, mesh):
    features, labels = digits
    where = np.arange(len(labels)) < ROWS
    padded = np.where(where[:, None], features, 1e6)
    found = problem(padded, labels, mesh, where).fit(where, 10.0)
    expected = reference(10.0, features[:ROWS], labels[:ROWS])
    assert_same(found, expected.coef_, expected.intercept_, features)


def test_a_search_that_is_cut_short_says_so(digits, mesh):
    features, labels = digits
    solver, where = problem(features, labels, mesh), np.ones(len(labels), bool)
    assert not solver.fit(where, 1.0, max_iterations=3).converged
    scores = logistic_regression.scores(jnp.asarray(features), solver.fit(where, 1.0))
    assert np.mean(np.argmax(scores, axis=1) == labels) > 0.99
