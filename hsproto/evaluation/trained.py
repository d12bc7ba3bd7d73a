"""A finished run as a classifier: its data, the features of any images, and the logits it gives."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hsproto import config as config_lib
from hsproto import config_checks, prototypes
from hsproto.core.nearest import class_block_for
from hsproto.data import fingerprint as fingerprint_lib
from hsproto.data import load as load_lib
from hsproto.data import loader
from hsproto.data.source import Source, Splits, data_spec
from hsproto.errors import UserError
from hsproto.evaluation import by_class
from hsproto.evaluation.evaluator import Embedded, Evaluation, Evaluator
from hsproto.evaluation.row_blocks import Scores
from hsproto.models import classifier as classifier_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.parallel.processes import log_main
from hsproto.runs import config_file
from hsproto.runs.progress import ItemProgress
from hsproto.training import known_data, memory
from hsproto.training.checkpoint import CONFIG, Checkpoints
from hsproto.training.state import TrainState, abstract


class TrainedRun:
    """One state of a run, opened. Splits are read, and embedded, when they are first asked for.

    Attributes:
        config: the resolved config; its `data_dir` is the one given here, if one is.
        step: of the state.
        variables: the encoder's, and where it has one the classifier's.
        mesh: over all devices.
    """

    def __init__(self, workdir: str, checkpoint: int | None = None, data_dir: str = ""):
        self.mesh = mesh_lib.make_mesh()
        self._workdir = workdir
        self.config, state, self.step = load_state(workdir, self.mesh, checkpoint)
        self.config.data_dir = data_dir or self.config.data_dir
        config_checks.validate(self.config)
        mesh_lib.check_divisible("eval_batch_size", self.config.eval_batch_size, self.mesh)
        self.variables = state.variables
        self._evaluator = Evaluator(self.config, None, self.mesh)
        self._gather = jax.jit(lambda x: x, out_shardings=mesh_lib.replicated(self.mesh))

    @functools.cached_property
    def splits(self) -> Splits:
        """The training and the test source. UserError if they are not those of the run."""
        spec = data_spec(self.config)
        # Compared below, where other classes are named and not only counted.
        splits = load_lib.read_splits(dataclasses.replace(spec, num_classes=0))
        now = fingerprint_lib.fingerprint(splits)
        way_out = "restore the data, or give by --data_dir=DIR where they are now"
        known_data.check(self._workdir, now, way_out, self.step)
        load_lib.check_num_classes(spec, splits)
        return splits

    @functools.cached_property
    def train(self) -> Embedded:
        """The embedded training set."""
        return self._embed_split("training", self.splits.train)

    @functools.cached_property
    def test(self) -> Embedded:
        """The embedded test set."""
        return self._embed_split("test", self.splits.test)

    def _embed_split(self, name, source):
        return self.embed(source, ItemProgress(len(source), log_main, f"{name} images"))

    @functools.cached_property
    def _classifier(self):
        weights, bias = classifier_lib.classifier(self.variables)
        if weights is None:
            weights = prototypes.fit(
                self.train.projections,
                self.train.labels,
                num_classes=self.config.num_classes,
                where=self.train.where,
            )
        return weights, bias

    @property
    def weights(self) -> jax.Array:
        """Prototypes [K, D]: the run's own or, for an encoder loss, those of the training set."""
        return self._classifier[0]

    @property
    def bias(self) -> jax.Array | None:
        """Bias [K] of the classifier, or None."""
        return self._classifier[1]

    def embed(self, source: Source, progress: ItemProgress | None = None) -> Embedded:
        """Return all images of a source as features."""
        opened = loader.open_loader(source, self.config, self.mesh)
        return self._evaluator.embed_all(self.variables, opened, progress and progress.update)

    def evaluate(self, adjustment: float = 1.0) -> Evaluation:
        """Return accuracy and geometry on both splits, as `Evaluator.evaluate`."""
        weights, bias = classifier_lib.classifier(self.variables)
        return self._evaluator.measure(
            self.config, self.train, self.test, weights, bias, adjustment
        )

    def error(self, embedded: Embedded) -> float:
        """Return the share of the images that are misclassified."""
        predicted = by_class.predict(
            self.config, self.mesh, embedded.projections, self.weights, self.bias
        )
        correct = self.on_host(predicted) == embedded.labels
        return float(1 - correct[embedded.where].mean())

    def logits(self, embedded: Embedded) -> Scores:
        """Return the classifier's logits of the images, without the padding."""
        return self._scores(embedded, functools.partial(classifier_lib.logits, self.config))

    def cosines(self, embedded: Embedded) -> Scores:
        """Return the cosines of the images with the prototypes, without the padding."""
        return self._scores(embedded, lambda rows, weights, bias: prototypes.logits(rows, weights))

    def _scores(self, embedded, function):
        features, where, classes = embedded.projections, embedded.where, len(self.weights)
        labels = embedded.labels[where]
        if class_block_for(len(features), classes) is None:
            scores = self.on_host(function(features, self.weights, self.bias))
            return Scores(scores[where], labels, classes)
        program = jax.jit(function, out_shardings=mesh_lib.replicated(self.mesh))

        def scores_of(rows):
            return np.asarray(program(rows, self.weights, self.bias))

        return Scores(self.on_host(features)[where], labels, classes, scores_of)

    def on_host(self, array: jax.Array) -> np.ndarray:
        """Return a global array as NumPy's, in every process."""
        return np.asarray(self._gather(array))


def load_state(workdir: str, mesh: Mesh, step: int | None = None) -> tuple[Any, TrainState, int]:
    """Return (config, state, step) of a run; the newest state where `step` is None.

    Raises:
        UserError: `workdir` holds no run, or no such state.
    """
    config = config_file.read(workdir)
    if config is None:
        raise UserError(f"--workdir={workdir}: no run there (no config.json)")
    # Replicated: the rows of a queue need not be divisible by the devices that only read the run.
    replicated = mesh_lib.replicated(mesh)
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
        abstract(config, mesh),
    )
    memory.check(config, state, mesh)
    with Checkpoints(workdir) as checkpoints:
        _check_config(workdir, config, checkpoints.metadata(step).get(CONFIG))
        restored = checkpoints.restore(state, step)
    if restored is None:
        raise UserError(
            f"--workdir={workdir} holds no checkpoint: `hsproto train` has saved none yet, or the "
            "folder checkpoints/ was removed"
        )
    return config, *restored


def _check_config(workdir, config, trained_with):
    """Raise UserError if config.json is not what the checkpoint was trained with."""
    if not isinstance(trained_with, dict):  # a checkpoint of the first version
        return
    other = config_lib.from_stored(trained_with)
    if changed := config_lib.differences(config, other):
        values = "; ".join(
            f"{key}={config_lib.shown(config[key])} there, "
            f"{config_lib.shown(other[key])} in the checkpoint"
            for key in changed
        )
        raise UserError(
            f"{workdir}/{config_file.NAME} is not that of the run's checkpoint ({values}): "
            "restore it"
        )
