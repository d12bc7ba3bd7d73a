"""Train a network on the hypersphere, from a config to a table of accuracy and geometry.

  python -m hsproto.train --config=configs/digits.py --workdir=runs/digits

The same command resumes a run that was stopped.
"""

import contextlib
import math
import os
import signal
import sys
import threading

import jax
import jax.numpy as jnp
import optax

from hsproto import augment, cli, data, evaluate, feed, losses, models, optim, report, sharding
from hsproto import config as config_lib
from hsproto import state as state_lib
from hsproto.checkpoint import Checkpoints
from hsproto.errors import UserError
from hsproto.writer import MetricsWriter, Progress, write_text


class NonFiniteLoss(RuntimeError):
    """The loss or the gradient of a step is NaN or infinite."""


def batch_loss(config, outputs, prototypes, bias, labels):
    """PerAnchor loss of a batch by the config's `loss`, from a model's outputs and classifier."""
    if config.loss == "cross_entropy":
        return losses.cross_entropy(outputs.features, prototypes, labels, bias=bias)
    if config.loss == "dot_regression":
        return losses.dot_regression(outputs.features, prototypes, labels)
    if config.loss == "scl":
        return losses.scl(outputs.projections, labels, temperature=config.temperature)
    if config.loss == "prototype_softmax":
        return losses.prototype_softmax(
            outputs.projections,
            labels,
            num_classes=config.num_classes,
            temperature=config.temperature,
        )
    loss = getattr(losses, config.loss)
    return loss(outputs.features, prototypes, labels, temperature=config.temperature)


def make_train_step(config, mesh):
    """The compiled step: (TrainState, {"image", "label"}) -> (TrainState, metrics).

    `config` is resolved (`state.resolve`). Images are uint8 [batch_size, H, W, C] and labels int
    [batch_size], global arrays split over the mesh; the state is replicated, and donated. Encoder
    losses see two augmented views of each image, all others one. The randomness of a step is a
    function of (seed, step). Metrics are scalars: loss, gradient_norm, learning_rate, and accuracy
    on the batch where there is a classifier.
    """
    model = models.build(config, config.num_classes)
    augmented = augment.make_augment(config)
    per_epoch = state_lib.steps_per_epoch(config)
    rate, optimiser = optim.learning_rate(config, per_epoch), optim.sgd(config, per_epoch)
    views = 2 if config.loss in config_lib.ENCODER_LOSSES else 1

    def step(state, batch):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        images = [augmented(k, batch["image"]) for k in jax.random.split(key, views)]
        # Views of an image stand beside each other, so that splitting rows over devices moves none.
        images = jnp.stack(images, axis=1).reshape(-1, *images[0].shape[1:])
        labels = jnp.repeat(batch["label"], views)

        def loss_of(params):
            variables = {**state.variables, "params": params}
            outputs, batch_stats = models.forward(model, variables, images, train=True)
            prototypes, bias = models.classifier(variables)
            loss = batch_loss(config, outputs, prototypes, bias, labels).mean()
            metrics = {"loss": loss}
            if prototypes is not None:
                predicted = evaluate.predict(config, outputs.features, prototypes, bias)
                metrics["accuracy"] = jnp.mean(predicted == labels)
            return loss, (metrics, batch_stats)

        gradients, (metrics, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        metrics["gradient_norm"] = optax.global_norm(gradients)
        metrics["learning_rate"] = rate(state.step)
        state = state._replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, metrics

    whole, split = sharding.replicated(mesh), sharding.over_batch(mesh)
    return jax.jit(
        step, donate_argnums=0, in_shardings=(whole, split), out_shardings=(whole, whole)
    )


def train(config, workdir):
    """Runs or resumes `config` in `workdir`; returns the summary, or None when told to stop.

    Raises UserError on what the user can mend, before any training, and NonFiniteLoss.
    """
    config_lib.validate(config)
    mesh = sharding.make_mesh()
    sharding.check_divisible("batch_size", config.batch_size, mesh)
    sharding.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
    models.validate(config)
    _claim(workdir, config)
    splits = data.load(config)
    config = state_lib.resolve(config, splits)
    _describe(config, workdir, mesh)

    with Checkpoints(workdir, keep=config.keep_checkpoints) as checkpoints, _Stop() as stop:
        restored = checkpoints.restore(state_lib.abstract(config, mesh))
        if restored is None:
            state, start = state_lib.create(config, mesh), 0
        else:
            state, start = restored
            print(f"resuming at step {start}", flush=True)
        if start == state_lib.total_steps(config) and os.path.exists(
            os.path.join(workdir, "summary.json")
        ):
            summary = report.read_summary(workdir)
            print(f"finished already\n{report.table(summary)}")
            return summary
        write_text(os.path.join(workdir, "config.json"), config_lib.to_json(config))
        feeds = evaluate.Feeds(
            feed.open(splits.train, config, mesh), feed.open(splits.test, config, mesh)
        )
        evaluator = evaluate.Evaluator(config, feeds, mesh)
        writer = MetricsWriter(workdir, start, config.tensorboard)
        with contextlib.closing(writer):
            loop = _Loop(config, mesh, feeds.train, evaluator, checkpoints, writer)
            evaluation = loop.run(state, start, stop)
        if evaluation is None:
            return None
    summary = evaluate.summarise(
        config, loop.total, evaluation, mesh, loop.progress.images_per_second
    )
    evaluate.write(workdir, summary, evaluation, splits.train.class_names)
    report.write_figures(workdir, workdir)
    print(report.table(summary))
    return summary


class _Loop:
    """The loop over steps. The metrics of a step are read when the next one is under way."""

    def __init__(self, config, mesh, train_feed, evaluator, checkpoints, writer):
        self.total = state_lib.total_steps(config)
        self.progress = Progress(self.total, config.batch_size)
        self._config, self._feed, self._evaluator = config, train_feed, evaluator
        self._checkpoints, self._writer = checkpoints, writer
        self._step = make_train_step(config, mesh)
        per_epoch = state_lib.steps_per_epoch(config)
        self._eval_every = max(1, round(config.eval_every_epochs * per_epoch))
        self._save_every = max(1, round(config.checkpoint_every_epochs * per_epoch))

    def run(self, state, start, stop):
        """The evaluation of the last step's state, or None where `stop` came first; it is saved."""
        batches = self._feed.batches(start, self.total - start)
        unread = evaluation = None
        for step, batch in enumerate(batches, start=start + 1):
            state, metrics = self._step(state, batch)
            if unread:
                self._read(*unread)
            unread = (step, metrics)
            last, stopping = step == self.total, stop.requested
            evaluating = step % self._eval_every == 0 or last
            saving = step % self._save_every == 0 or last or stopping
            if evaluating or saving:
                # A state is kept or looked at only once its own loss is known to be finite.
                self._read(*unread)
                unread = None
                self.progress.pause()
                if evaluating:
                    evaluation = self._evaluate(state, step)
                if saving:
                    self._checkpoints.save(step, state)
                self.progress.start()
            if stopping and not last:
                self._checkpoints.wait()
                print(f"stopped at step {step}, saved; the same command resumes", flush=True)
                return None
        self.progress.pause()
        self._checkpoints.wait()
        # Nothing was left to do where a run was killed between its last checkpoint and its summary.
        return evaluation or self._evaluator.evaluate(state.variables)

    def _read(self, step, metrics):
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(metrics[name]):
                self._checkpoints.wait()
                kept = self._checkpoints.steps()
                raise NonFiniteLoss(
                    f"the {name.replace('_', ' ')} of step {step} is {metrics[name]}; training "
                    "stopped. Last good checkpoint: "
                    f"{f'step {kept[-1]}' if kept else 'none yet'}. A lower base_lr, a higher "
                    "temperature or a warm-up usually helps"
                )
        if step % self._config.log_every == 0 or step == self.total:
            self._writer.write(step, metrics)
        self.progress.step(step, metrics["loss"])

    def _evaluate(self, state, step):
        found = self._evaluator.evaluate(state.variables)
        metrics = {
            f"{split}/{k}": v for split in found.metrics for k, v in found.metrics[split].items()
        }
        self._writer.write(step, metrics)
        print(
            f"step {step}  test accuracy {metrics['test/accuracy']:.4f}  train accuracy "
            f"{metrics['train/accuracy']:.4f}  train nc1 {metrics['train/nc1']:.3g}",
            flush=True,
        )
        return found


class _Stop:
    """Whether SIGTERM or SIGINT has asked the run to save and end; a second SIGINT kills it."""

    def __enter__(self):
        self.requested = False
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number, _):
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._previous[signal.SIGINT])


def _claim(workdir, config):
    """Makes `workdir`, or raises UserError where it is unwritable or holds another config's run."""
    try:
        os.makedirs(workdir, exist_ok=True)
        probe = os.path.join(workdir, ".writable")
        with open(probe, "w"):
            pass
        os.remove(probe)
    except OSError as error:
        raise UserError(f"--workdir={workdir} is not writable: {error.strerror}") from None
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        return
    with open(path) as file:
        earlier = config_lib.from_json(file.read())
    # What was filled in from the data then is compared when the data are there; not before.
    filled = [k for k in ("num_classes", "num_examples", "mean", "std") if not config[k]]
    changed = [k for k in config_lib.differences(config, earlier) if k not in filled]
    if changed:
        told = ", ".join(f"{k}={earlier[k]!r} there, {config[k]!r} here" for k in changed)
        raise UserError(f"--workdir={workdir} holds a run of another config ({told}); take another")


def _describe(config, workdir, mesh):
    device = mesh.devices.flat[0]
    print(
        f"{config.dataset}: {config.num_examples} training images of {config.num_classes} classes; "
        f"{config.backbone}, {config.loss}, {state_lib.total_steps(config)} steps of "
        f"{config.batch_size} on {mesh.size} {device.device_kind} device(s); {workdir}",
        flush=True,
    )


def main(argv):
    parser = cli.Parser(__doc__, prog="python -m hsproto.train")
    parser.add_argument("--workdir", required=True, help="where the run lives; resumed if it does")
    args, config = parser.parse_with_config(argv)
    try:
        train(config, args.workdir)
    except NonFiniteLoss as error:
        print(f"hsproto: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    cli.run(main)
