"""The training step: from a state and a batch to the next state, compiled once.

What a step computes is a matter of the config and never of the hardware. The batch is global: its
negatives and its BatchNorm statistics are those of all rows on all devices, or of `loss_groups` and
`bn_groups` groups of consecutive rows. Of the features nothing crosses devices but what the losses
say: sums by class or, for SCL, the outputs of its head.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import PartitionSpec

from hsproto import config as config_lib
from hsproto.data import augment
from hsproto.models import classifier as classifier_lib
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import objective, optimizer
from hsproto.training import queue as queue_lib
from hsproto.training import state as state_lib


def make_train_step(config, mesh, log_prior=None):
    """The compiled step: (TrainState, {"image", "label"}) -> (TrainState, metrics).

    `config` is resolved (`load.resolve`). Images are uint8 [batch_size, H, W, C] and labels int
    [batch_size], global arrays split over the mesh; the state is replicated, and donated. Encoder
    losses see two augmented views of each image, all others one; where `crop_on` is host, images
    come as [batch_size, views, H, W, C]. The randomness of a step is a
    function of (seed, step). Metrics are scalars: loss, gradient_norm, learning_rate, and accuracy
    on the batch where there is a classifier. `log_prior` [K] is of the classes in the training set,
    for `logit_adjustment` (`objective.log_prior`).

    With n = `microbatches` > 1 images come as [n, batch_size/n, ...] and labels as
    [n, batch_size/n], split along their second axis. The gradient is the exact one of the loss of
    the whole batch, with a backbone that sees a microbatch at a time: all are embedded, the loss is
    differentiated at the embeddings, and a second pass, with the random numbers of the first, takes
    that to the parameters. BatchNorm statistics are those of each microbatch.
    """
    model = model_lib.build(config, config.num_classes)
    augmented = augment.make_augment(config)
    per_epoch = config_lib.steps_per_epoch(config)
    rate, optimiser = optimizer.learning_rate(config, per_epoch), optimizer.sgd(config, per_epoch)
    views = config_lib.num_views(config)
    split_loss = _make_loss(config, mesh, log_prior)

    def step(state, batch):
        shape = batch["label"].shape
        labels = jnp.repeat(batch["label"], views, axis=-1)
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        keys = [jax.random.split(k, config.batch_size) for k in jax.random.split(key, views)]
        inputs = jnp.stack([k.reshape(shape) for k in keys], axis=-1), batch["image"]

        def embed(variables, inputs):
            keys, images = inputs
            images = [augmented(keys[:, view], images, view) for view in range(views)]
            # Views of an image stand beside each other, so that splitting rows over devices moves
            # none.
            images = jnp.stack(images, axis=1).reshape(-1, *images[0].shape[1:])
            return model_lib.forward(model, {**state.variables, **variables}, images, train=True)

        def embed_by(params, inputs):
            return embed({"params": params}, inputs)

        def classify(params, outputs):
            prototypes, bias = classifier_lib.classifier({**state.variables, "params": params})
            metrics = {"loss": split_loss(outputs, prototypes, bias, labels, state.queue)}
            if prototypes is not None:
                features = outputs.features.reshape(-1, prototypes.shape[1])
                predicted = classifier_lib.predict(config, features, prototypes, bias)
                metrics["accuracy"] = jnp.mean(predicted == labels.reshape(-1))
            return metrics["loss"], metrics

        differentiate = _whole if config.microbatches == 1 else _in_microbatches
        gradients, outputs, metrics, batch_stats = differentiate(
            embed_by, classify, state.params, inputs
        )
        updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        metrics["gradient_norm"] = optax.global_norm(gradients)
        metrics["learning_rate"] = rate(state.step)
        params = optax.apply_updates(state.params, updates)
        queue, average = state.queue, state.average
        if average:
            outputs, average = _follow(config, embed, average, params, inputs)
        if queue:
            new = (_one_axis(x, labels.ndim) for x in (outputs.projections, labels))
            queue = queue_lib.push(queue, state.step, *new)
        state = state._replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            queue=queue,
            average=average,
        )
        return state, metrics

    whole = mesh_lib.replicated(mesh)
    split = mesh_lib.over_batch(mesh, axis=int(config.microbatches > 1))
    state = state_lib.layout(config, mesh)
    return jax.jit(
        step, donate_argnums=0, in_shardings=(state, split), out_shardings=(state, whole)
    )


def _follow(config, embed, average, params, inputs):
    """(outputs, its next state) of the moving-average encoder on a batch."""
    if config.microbatches == 1:
        outputs, batch_stats = embed(average, inputs)
    else:
        outputs, batch_stats = lax.map(functools.partial(embed, average), inputs)
        batch_stats = jax.tree.map(lambda x: jnp.mean(x, axis=0), batch_stats)
    keep = config.queue_momentum
    params = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, average["params"], params)
    return outputs, {"params": params, "batch_stats": batch_stats}


def _whole(embed, classify, params, inputs):
    """(gradients, outputs, metrics, batch_stats) of a batch in one piece."""

    def loss(params):
        outputs, batch_stats = embed(params, inputs)
        loss, metrics = classify(params, outputs)
        return loss, (outputs, metrics, batch_stats)

    gradients, found = jax.grad(loss, has_aux=True)(params)
    return gradients, *found


def _in_microbatches(embed, classify, params, inputs):
    """The same of a batch whose microbatches are the leading axis of `inputs`."""
    outputs, batch_stats = lax.map(functools.partial(embed, params), inputs)
    (direct, slopes), metrics = jax.grad(classify, argnums=(0, 1), has_aux=True)(params, outputs)

    def add(gradients, part):
        inputs, slopes = part
        _, pull_back = jax.vjp(lambda params: embed(params, inputs)[0], params)
        return jax.tree.map(jnp.add, gradients, *pull_back(slopes)), None

    gradients, _ = lax.scan(add, direct, (inputs, slopes))
    # Each started from the same running statistics: their mean is those after one step of momentum.
    batch_stats = jax.tree.map(lambda x: jnp.mean(x, axis=0), batch_stats)
    return gradients, outputs, metrics, batch_stats


def _make_loss(config, mesh, log_prior):
    """f(outputs, prototypes, bias, labels, queue) -> mean loss; microbatches give rows two axes."""
    if config.loss_groups == 1:
        # Each device takes its own rows, in its own order: only sums over the batch cross devices.
        rows = mesh_lib.over_batch(mesh, axis=int(config.microbatches > 1)).spec

        def local(outputs, prototypes, bias, labels, queue):
            outputs, labels = jax.tree.map(
                lambda x: x.reshape(-1, *x.shape[len(rows) :]), (outputs, labels)
            )
            queued = queue_lib.rows(queue)
            found = objective.batch_loss(
                config, outputs, prototypes, bias, labels, "data", queued, log_prior
            )
            return found.mean("data")

        whole, queue = PartitionSpec(), queue_lib.layout(config, mesh).spec
        return jax.shard_map(
            local, mesh=mesh, in_specs=(rows, whole, whole, rows, queue), out_specs=whole
        )

    def grouped(outputs, prototypes, bias, labels, queue):
        del queue  # of a loss of one group alone
        groups = jax.tree.map(
            lambda x: x.reshape(config.loss_groups, -1, *x.shape[labels.ndim :]), (outputs, labels)
        )

        def loss(outputs, labels):
            return objective.batch_loss(
                config, outputs, prototypes, bias, labels, log_prior=log_prior
            ).mean()

        # The mean over groups of means, as devices average their gradients.
        return jnp.mean(jax.vmap(loss)(*groups))

    return grouped


def _one_axis(x, axes):
    """Rows [B, ...], and those of microbatches [n, B/n, ...] in an order that leaves them on their
    devices."""
    return x if axes == 1 else jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
