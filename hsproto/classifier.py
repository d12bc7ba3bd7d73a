"""A finished run as a classifier: its data, the features of any images, and the logits it gives."""

import functools

import jax
import numpy as np

from hsproto import config as config_lib
from hsproto import data, evaluate, feed, models, prototypes, sharding
from hsproto import state as state_lib
from hsproto.numerics import matmul


def logits(config, features, weights, bias=None):
    """Logits float32 [B, K] of the classifier that the loss of `config` trains.

    Cross entropy: z·w_c + b_c. All other losses, fixed prototypes too: cosines over
    `config.temperature`, whose softmax is NormFace's probability of each class. -inf for a
    prototype of length zero. Their largest is what `evaluate.predict` names.
    """
    if config.loss == "cross_entropy":
        found = matmul(features, weights.T)
        return found if bias is None else found + bias
    return prototypes.logits(features, weights, temperature=config.temperature)


class Run:
    """One state of a run, opened. Splits are read, and embedded, when they are first asked for.

    `config` is resolved; `weights` [K, D] and `bias` [K] or None are the classifier's: the run's
    own or, for an encoder loss, fixed prototypes from a pass over the training set.
    """

    def __init__(self, workdir, checkpoint=None):
        self.mesh = sharding.make_mesh()
        self.config, state, self.step = state_lib.load(workdir, self.mesh, checkpoint)
        config_lib.validate(self.config)
        sharding.check_divisible("eval_batch_size", self.config.eval_batch_size, self.mesh)
        self._variables = state.variables
        self._evaluator = evaluate.Evaluator(self.config, None, self.mesh)
        self._gather = jax.jit(lambda x: x, out_shardings=sharding.replicated(self.mesh))

    @functools.cached_property
    def splits(self):
        return data.load(self.config)

    @functools.cached_property
    def train(self):
        """The training set, as `evaluate.Embedded`."""
        return self.embed(self.splits.train)

    @functools.cached_property
    def test(self):
        """The test set, as `evaluate.Embedded`."""
        return self.embed(self.splits.test)

    @functools.cached_property
    def _classifier(self):
        weights, bias = models.classifier(self._variables)
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
        """All images of a source through the encoder, as `evaluate.Embedded`."""
        opened = feed.open(source, self.config, self.mesh)
        return self._evaluator.embed_all(self._variables, opened)

    def error(self, embedded):
        """Share of the images that are not classified rightly."""
        predicted = evaluate.predict(self.config, embedded.projections, self.weights, self.bias)
        right = self.on_host(predicted) == embedded.labels
        return float(1 - right[embedded.where].mean())

    def logits(self, embedded):
        """(logits float32 [N, K], labels [N]) of the images, without the padding."""
        found = logits(self.config, embedded.projections, self.weights, self.bias)
        return self.on_host(found)[embedded.where], embedded.labels[embedded.where]

    def on_host(self, array):
        """A global array as NumPy's, in every process."""
        return np.asarray(self._gather(array))
