"""A finished run as a classifier: its data, the features of any images, and the logits it gives."""

import functools
import os

import jax
import numpy as np

from hsproto import config as config_lib
from hsproto import prototypes
from hsproto.data import load as load_lib
from hsproto.data import loader
from hsproto.errors import UserError
from hsproto.evaluation import evaluator
from hsproto.models import classifier as classifier_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.training.checkpoint import Checkpoints
from hsproto.training.state import abstract


class TrainedRun:
    """One state of a run, opened. Splits are read, and embedded, when they are first asked for.

    `config` is resolved; `weights` [K, D] and `bias` [K] or None are the classifier's: the run's
    own or, for an encoder loss, fixed prototypes from a pass over the training set.
    """

    def __init__(self, workdir, checkpoint=None):
        self.mesh = mesh_lib.make_mesh()
        self.config, state, self.step = load_state(workdir, self.mesh, checkpoint)
        config_lib.validate(self.config)
        mesh_lib.check_divisible("eval_batch_size", self.config.eval_batch_size, self.mesh)
        self._variables = state.variables
        self._evaluator = evaluator.Evaluator(self.config, None, self.mesh)
        self._gather = jax.jit(lambda x: x, out_shardings=mesh_lib.replicated(self.mesh))

    @functools.cached_property
    def splits(self):
        return load_lib.load_splits(self.config)

    @functools.cached_property
    def train(self):
        """The training set, as `evaluator.Embedded`."""
        return self.embed(self.splits.train)

    @functools.cached_property
    def test(self):
        """The test set, as `evaluator.Embedded`."""
        return self.embed(self.splits.test)

    @functools.cached_property
    def _classifier(self):
        weights, bias = classifier_lib.classifier(self._variables)
        if weights is None:
            weights = prototypes.fit(
                self.train.projections,
                self.train.labels,
                num_classes=self.config.num_classes,
                where=self.train.where,
            )
        return weights, bias

    @property
    def weights(self):
        return self._classifier[0]

    @property
    def bias(self):
        return self._classifier[1]

    def embed(self, source):
        """All images of a source through the encoder, as `evaluator.Embedded`."""
        opened = loader.open_loader(source, self.config, self.mesh)
        return self._evaluator.embed_all(self._variables, opened)

    def error(self, embedded):
        """Share of the images that are not classified rightly."""
        predicted = classifier_lib.predict(
            self.config, embedded.projections, self.weights, self.bias
        )
        right = self.on_host(predicted) == embedded.labels
        return float(1 - right[embedded.where].mean())

    def logits(self, embedded):
        """(logits float32 [N, K], labels [N]) of the images, without the padding."""
        found = classifier_lib.logits(self.config, embedded.projections, self.weights, self.bias)
        return self.on_host(found)[embedded.where], embedded.labels[embedded.where]

    def on_host(self, array):
        """A global array as NumPy's, in every process."""
        return np.asarray(self._gather(array))


def load_state(workdir, mesh, step=None):
    """(config, state, step) of a run. Raises UserError where `workdir` holds none."""
    path = os.path.join(workdir, "config.json")
    if not os.path.isfile(path):
        raise UserError(f"--workdir={workdir}: no run there (no config.json)")
    with open(path, "rb") as file:
        config = config_lib.from_json(file.read())
    # A queue's rows need not divide by the devices that only look at the run.
    whole = mesh_lib.replicated(mesh)
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), abstract(config, mesh)
    )
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(state, step)
    if restored is None:
        raise UserError(f"--workdir={workdir}: the run has no checkpoint yet")
    return config, *restored
