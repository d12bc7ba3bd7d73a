"""The training step: from a state and a batch to the next state, compiled once.

What a step computes depends on the config, never on the hardware. The batch is global: negatives
and BatchNorm statistics are those of all rows on all devices, or of `loss_groups` and `bn_groups`
groups of consecutive rows. Only what the losses need crosses devices: sums per class or, for SCL,
the outputs of its head.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto.data import augment
from hsproto.models import classifier as classifier_lib
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import objective, optimizer
from hsproto.training import queue as queue_lib
from hsproto.training import state as state_lib

# Of the accuracy of a step: scores of rows and all classes, and rows.
_MOST_SCORES, _LEAST_ROWS = 1 << 24, 128


def make_train_step(
    config: ConfigDict, mesh: jax.sharding.Mesh, log_prior: ArrayLike | None = None
) -> Callable[[state_lib.TrainState, dict], tuple[state_lib.TrainState, dict]]:
    """Return the compiled step: (TrainState, {"image", "label"}) -> (TrainState, metrics).

    Images are uint8 [batch_size, H, W, C], or [batch_size, views, H, W, C] if `crop_on` is host,
    and labels int [batch_size]: global arrays split over the mesh. The state is laid out as
    `state.layout` says, and donated. Encoder losses see two augmented views of each image, all
    others one. The random numbers of a step are a function of (seed, step). Metrics are scalars:
    loss, gradient_norm, learning_rate, and, if there is a classifier, accuracy on the batch; with
    very many classes on some rows of it (`measured_rows`).

    With n = `microbatches` > 1, images are [n, batch_size/n, ...] and labels [n, batch_size/n],
    split along their second axis. The gradient is exactly that of the whole batch's loss, although
    the backbone sees one microbatch at a time: a first pass embeds all of them, the loss is
    differentiated with respect to the embeddings, and a second pass with the same random numbers
    propagates that to the parameters. BatchNorm statistics are those of each microbatch.

    Args:
        config: The resolved config (`data.load.resolve`).
        mesh: The devices.
        log_prior: [K] of the training set's classes, for `logit_adjustment`
            (`objective.log_prior`).
    """
    model = model_lib.build(config, config.num_classes)
    augmented = augment.make_augment(config)
    per_epoch = config_lib.steps_per_epoch(config)
    rate, sgd = optimizer.learning_rate(config, per_epoch), optimizer.sgd(config, per_epoch)
    views = config_lib.num_views(config)
    split_loss = _make_loss(config, mesh, log_prior)
    predict = _make_predict(config, mesh)

    def step(state, batch):
        shape = batch["label"].shape
        labels = jnp.repeat(batch["label"], views, axis=-1)
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        # Of no view: their keys are those of `split`.
        mixing_key = jax.random.fold_in(key, config.batch_size + views)
        keys = [jax.random.split(k, config.batch_size) for k in jax.random.split(key, views)]
        inputs = jnp.stack([k.reshape(shape) for k in keys], axis=-1), batch["image"]

        def embed(variables, inputs):
            keys, images = inputs
            images = [augmented(keys[:, view], images, view) for view in range(views)]
            # Views of an image are adjacent, so that splitting rows over devices moves none.
            images = jnp.stack(images, axis=1).reshape(-1, *images[0].shape[1:])
            images = objective.mix(config, mixing_key, images)
            return model_lib.forward(model, {**state.variables, **variables}, images, train=True)

        def embed_by(params, inputs):
            return embed({"params": params}, inputs)

        def classify(params, outputs):
            prototypes, bias = classifier_lib.classifier({**state.variables, "params": params})
            targets = objective.mix(config, mixing_key, labels)
            metrics = {"loss": split_loss(outputs, prototypes, bias, targets, state.queue)}
            if prototypes is not None:
                features, classes = (_one_axis(x, labels.ndim) for x in (outputs.features, labels))
                rows = measured_rows(len(classes), config.num_classes)
                predicted = predict(features[rows], prototypes, bias)
                metrics["accuracy"] = jnp.mean(predicted == classes[rows])
            return metrics["loss"], metrics

        differentiate = _whole if config.microbatches == 1 else _in_microbatches
        gradients, outputs, metrics, batch_stats = differentiate(
            embed_by, classify, state.params, inputs
        )
        updates, opt_state = sgd.update(gradients, state.opt_state, state.params)
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
    """Return the moving-average encoder's outputs on a batch, and its next state."""
    if config.microbatches == 1:
        outputs, batch_stats = embed(average, inputs)
    else:
        outputs, batch_stats = lax.map(functools.partial(embed, average), inputs)
        batch_stats = jax.tree.map(lambda x: jnp.mean(x, axis=0), batch_stats)
    keep = config.queue_momentum
    params = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, average["params"], params)
    return outputs, {"params": params, "batch_stats": batch_stats}


def _whole(embed, classify, params, inputs):
    """Return (gradients, outputs, metrics, batch_stats) of a batch in one piece."""

    def loss(params):
        outputs, batch_stats = embed(params, inputs)
        loss, metrics = classify(params, outputs)
        return loss, (outputs, metrics, batch_stats)

    gradients, (outputs, metrics, batch_stats) = jax.grad(loss, has_aux=True)(params)
    return gradients, outputs, metrics, batch_stats


def _in_microbatches(embed, classify, params, inputs):
    """Return the same for a batch whose microbatches are the leading axis of `inputs`."""
    outputs, batch_stats = lax.map(functools.partial(embed, params), inputs)
    (direct, slopes), metrics = jax.grad(classify, argnums=(0, 1), has_aux=True)(params, outputs)

    def add(gradients, part):
        inputs, slopes = part
        _, pull_back = jax.vjp(lambda params: embed(params, inputs)[0], params)
        return jax.tree.map(jnp.add, gradients, *pull_back(slopes)), None

    gradients, _ = lax.scan(add, direct, (inputs, slopes))
    # All started from the same running statistics: their mean is one step of momentum.
    batch_stats = jax.tree.map(lambda x: jnp.mean(x, axis=0), batch_stats)
    return gradients, outputs, metrics, batch_stats


def _make_loss(config, mesh, log_prior):
    """Return f(outputs, prototypes, bias, labels, queue) -> mean loss.

    With microbatches, rows have two axes.
    """
    if config.loss_groups == 1:
        # Each device uses its own rows, in its own order: only sums over the batch cross devices.
        rows = mesh_lib.over_data(mesh, axis=int(config.microbatches > 1)).spec
        model_axis = mesh_lib.MODEL_AXIS if mesh_lib.splits_classes(mesh) else None

        def local(outputs, prototypes, bias, labels, queue, log_prior):
            outputs, labels = jax.tree.map(
                lambda x: x.reshape(-1, *x.shape[len(rows) :]), (outputs, labels)
            )
            loss = objective.batch_loss(
                config,
                outputs,
                prototypes,
                bias,
                labels,
                "data",
                queue_lib.rows(queue),
                log_prior,
                model_axis,
            )
            return loss.mean("data")

        classes, queue = mesh_lib.over_classes(mesh).spec, queue_lib.layout(config, mesh).spec
        split = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(rows, classes, classes, rows, queue, classes),
            out_specs=PartitionSpec(),
        )
        return functools.partial(_with_prior, split, log_prior)

    def grouped(outputs, prototypes, bias, labels, queue):
        del queue  # needs loss_groups=1
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


def _with_prior(loss, log_prior, *arguments):
    return loss(*arguments, log_prior)


def measured_rows(count: int, num_classes: int) -> slice:
    """Return the rows of a batch that its accuracy is taken on: all, or evenly spread ones.

    All classes are compared with each of them, which for very many would cost far more than a loss
    that needs none but the batch's own. They are as many as give _MOST_SCORES, at least
    _LEAST_ROWS.
    """
    least = max(_LEAST_ROWS, _MOST_SCORES // num_classes)
    steps = (d for d in range(count // least, 1, -1) if count % d == 0)
    return slice(None, None, next(steps, 1))


def _make_predict(config, mesh):
    """Return f(features, prototypes, bias) -> predicted labels."""
    if not mesh_lib.splits_classes(mesh):
        return functools.partial(classifier_lib.predict, config)

    def predict(features, prototypes, bias):
        rows, classes = mesh_lib.over_data(mesh).spec, mesh_lib.over_classes(mesh).spec
        if len(features) % mesh.shape["data"]:  # some of a batch: each device takes all of them
            rows = PartitionSpec()
        split = jax.shard_map(
            functools.partial(classifier_lib.predict, config, model_axis=mesh_lib.MODEL_AXIS),
            mesh=mesh,
            in_specs=(rows, classes, classes),
            out_specs=rows,
        )
        return split(features, prototypes, bias)

    return predict


def _one_axis(x, axes):
    """Return rows as [B, ...]; those of microbatches [n, B/n, ...] stay on their devices."""
    return x if axes == 1 else jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
