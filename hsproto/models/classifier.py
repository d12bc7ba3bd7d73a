"""A model's classifier: its prototypes, its logits, and the class it predicts."""

import jax.numpy as jnp

from hsproto import prototypes
from hsproto.core import numerics
from hsproto.core.numerics import matmul


def predict(config, features, weights, bias=None):
    """Predicted labels [B]: by inner product for cross entropy, by cosine for all other losses.

    `bias` [K] is added to the inner products, or to the cosines over the config's temperature.
    """
    if config.loss == "cross_entropy":
        logits = matmul(features, weights.T)
    elif bias is None:
        return prototypes.predict(features, weights)
    else:
        logits = prototypes.logits(features, weights, temperature=config.temperature)
    return jnp.argmax(logits if bias is None else logits + bias, axis=1)


def classifier(variables):
    """(prototypes [K,D] or None, bias [K] or None) of a model's variables."""
    learnt, fixed = variables["params"], variables.get("constants", {})
    return fixed.get("prototypes", learnt.get("prototypes")), learnt.get("bias")


def logits(config, features, weights, bias=None):
    """Logits float32 [B, K] of the classifier that the loss of `config` trains.

    Cross entropy: z·w_c + b_c. All other losses, fixed prototypes too: cosines over
    `config.temperature`, whose softmax is NormFace's probability of each class. -inf for a
    prototype of length zero. Their largest is what `predict` names.
    """
    if config.loss == "cross_entropy":
        found = matmul(features, weights.T)
        return found if bias is None else found + bias
    return prototypes.logits(features, weights, temperature=config.temperature)


def rank(config, features, weights, bias=None):
    """Return (classes, cosines), int and float32 [B, K], likeliest first by `logits`."""
    order = jnp.argsort(-logits(config, features, weights, bias), axis=1)
    return order, jnp.take_along_axis(numerics.cosines(features, weights), order, axis=1)
