"""The phase in which only the head learns, on features of the frozen backbone that are made once.

The backbone sees every training image once, without augmentation. The features are kept in the
workdir, and what stands on them is trained in seconds: embedding, projection head and prototypes,
by the run's own loss, with Adam.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto.data import augment, long_tail, sampler, subsets
from hsproto.data.loader import Loader
from hsproto.models import classifier as classifier_lib
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.parallel import processes
from hsproto.parallel.processes import log_main
from hsproto.runs import features_file
from hsproto.training import objective
from hsproto.training.state import TrainState

_RATE, _DECAY = 1e-3, 1e-2  # of AdamW
_HELD_OUT = 5  # one in so many features of each class chooses how long to train
_LEAST = 300  # steps, however few images there are: they take seconds
_PARTS = 10  # of the training, after which it is asked


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Features with what a sampler asks of a source."""

    features: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "_Rows":
        return _Rows(self.features[rows], self.labels[rows])


def steps(config: ConfigDict) -> int:
    """Return the steps of `freeze_epochs`, at most those of the run."""
    per_epoch = config_lib.steps_per_epoch(config)
    return min(config_lib.total_steps(config), round(config.freeze_epochs * per_epoch))


def train_head(
    config: ConfigDict, state: TrainState, loader: Loader, mesh: jax.sharding.Mesh, workdir: str
) -> TrainState:
    """Train the head of an initial state, for 300 or `steps(config)` steps, whichever is more.

    A fifth of the features of each class, held out at first, decides how long: for the most tenths
    of the steps after which accuracy is within one standard error of the best. The head is then
    trained on all features for as long. Classes of fewer
    than five images hold out none, nor do encoder losses: they train for all steps.

    Args:
        config: The run's resolved config.
        state: Its initial state, whose backbone stays as it is.
        loader: Of the training set.
        mesh: The devices.
        workdir: Where the features are kept.

    Returns:
        The state after `steps(config)` steps, with the trained head.
    """
    rows = _features(config, state, loader, mesh, workdir)
    head = _Head(config, state, mesh, long_tail.class_counts(loader.source))
    total = head.choose_steps(rows, max(_LEAST, steps(config)))
    variables = head.fit(rows, total, total)[0]
    log_main(f"head trained for {total} steps of {config.batch_size} on {len(rows)} features")
    params = {**state.params, **variables["params"]}
    batch_stats = {**state.batch_stats, **variables["batch_stats"]}
    return state._replace(
        step=jax.device_put(np.int32(steps(config)), state.step.sharding),
        params=params,
        batch_stats=batch_stats,
    )


def _features(config, state, loader, mesh, workdir):
    """The features of all training images, from the workdir or made now."""
    names = tuple(loader.source.class_names)
    shape = (len(loader), config.num_classes)
    stored = features_file.read(workdir, shape)
    if not processes.all_processes(stored is not None):
        log_main(f"computing the features of {len(loader)} training images ...")
        stored = compute_features(config, state.variables, loader, mesh)
        if processes.is_main():
            features_file.write(workdir, *stored, names)
    return _Rows(*stored)


def compute_features(
    config: ConfigDict, variables: dict, loader: Loader, mesh: jax.sharding.Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """Return the backbone's features float32 [N, D'] and the labels int32 [N] of a loader."""
    model = model_lib.build(config, config.num_classes)
    preprocess = augment.make_preprocess(config)
    whole, split = mesh_lib.replicated(mesh), mesh_lib.over_batch(mesh)

    def pooled(variables, batch):
        features = model_lib.pooled(model, variables, preprocess(batch["image"]))
        return features, batch["label"], batch["where"]

    pooled = jax.jit(pooled, in_shardings=(whole, split), out_shardings=whole)
    features, labels = [], []
    for batch in loader.in_order(config.eval_batch_size):
        outputs, ids, where = map(np.asarray, pooled(variables, batch))
        features.append(outputs[where])
        labels.append(ids[where])
    return np.concatenate(features), np.concatenate(labels)


class _Head:
    """What stands on the backbone of a state, trained on features."""

    def __init__(self, config, state, mesh, counts):
        self._config = config
        self._model = model_lib.on_features(model_lib.build(config, config.num_classes))
        self._initial = model_lib.without_backbone(state.variables)
        self._whole = mesh_lib.replicated(mesh)
        self._log_prior = objective.log_prior(counts) if config.logit_adjustment else None

    def choose_steps(self, rows: _Rows, total: int) -> int:
        """Return after how many of `total` steps training is best stopped."""
        held_out = _held_out(rows.labels, self._config.seed)
        if classifier_lib.classifier(self._initial)[0] is None or not held_out.any():
            return total
        validation = rows.take(np.flatnonzero(held_out))
        _, accuracies = self.fit(
            rows.take(np.flatnonzero(~held_out)),
            total,
            max(1, total // _PARTS),
            lambda variables: self._accuracy(variables, validation),
        )
        parts = _longest(accuracies, len(validation))
        log_main(
            f"accuracy on {len(validation)} held-out images: {accuracies[parts - 1]:.4f} after "
            f"{parts} of {len(accuracies)} parts of the training"
        )
        return min(total, parts * max(1, total // _PARTS))

    def fit(
        self,
        rows: _Rows,
        total: int,
        part: int,
        measure: Callable[[Any], float] = lambda variables: 0.0,
    ) -> tuple[Any, list[float]]:
        """Train on rows; return the variables, and what `measure` gave after each part."""
        drawn = sampler.make(rows, self._config)
        optimizer = optax.adamw(optax.cosine_decay_schedule(_RATE, total), weight_decay=_DECAY)
        variables = jax.device_put(jax.tree.map(np.asarray, self._initial), self._whole)
        carry = (variables, optimizer.init(variables["params"]))
        data = jax.device_put((rows.features, rows.labels), self._whole)
        run = jax.jit(self._make_run(optimizer), out_shardings=self._whole)
        measured = []
        for start in range(0, total, part):
            numbers = np.arange(start, min(total, start + part))
            indices = np.stack([drawn.indices(number) for number in numbers])
            carry = run(carry, data, (numbers, indices))
            measured.append(measure(carry[0]))
        return carry[0], measured

    def _make_run(self, optimizer):
        config, model = self._config, self._model

        def step(data, carry, inputs):
            variables, opt_state = carry
            number, indices = inputs
            features, labels = (column[indices] for column in data)
            key = jax.random.fold_in(jax.random.key(config.seed), number)
            features, labels = (objective.mix(config, key, x) for x in (features, labels))

            def loss(params):
                new = {**variables, "params": params}
                outputs, batch_stats = model_lib.forward(model, new, features, train=True)
                weights, bias = classifier_lib.classifier(new)
                values = objective.batch_loss(
                    config, outputs, weights, bias, labels, log_prior=self._log_prior
                )
                return values.mean(), batch_stats

            gradients, batch_stats = jax.grad(loss, has_aux=True)(variables["params"])
            updates, opt_state = optimizer.update(gradients, opt_state, variables["params"])
            params = optax.apply_updates(variables["params"], updates)
            return ({**variables, "params": params, "batch_stats": batch_stats}, opt_state), None

        def run(carry, data, inputs):
            return jax.lax.scan(lambda carry, each: step(data, carry, each), carry, inputs)[0]

        return run

    def _accuracy(self, variables, rows):
        outputs, _ = model_lib.forward(self._model, variables, rows.features, train=False)
        weights, bias = classifier_lib.classifier(variables)
        predicted = classifier_lib.predict(self._config, outputs.projections, weights, bias)
        return float(np.mean(np.asarray(predicted) == rows.labels))


def _longest(accuracies, count):
    """The last part after which accuracy is within one standard error of the best, from 1."""
    best = max(accuracies)
    error = (best * (1 - best) / count) ** 0.5
    return 1 + max(i for i, accuracy in enumerate(accuracies) if accuracy >= best - error)


def _held_out(labels, seed):
    """Which rows are held out: one in five of each class, drawn by the seed; none if few."""
    chosen = np.zeros(len(labels), bool)
    generator = np.random.Generator(np.random.PCG64(seed))
    for _, members in subsets.rows_by_class(labels):
        rows = generator.permutation(members)
        if len(rows) < _HELD_OUT:
            return np.zeros(len(labels), bool)
        chosen[rows[: len(rows) // _HELD_OUT]] = True
    return chosen
