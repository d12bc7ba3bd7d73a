"""Four classifiers on one frozen encoder: fixed prototypes and three kinds of linear probing.

  hsproto probe --workdir=runs/scl_digits [--methods=fp,lp,nlp,cached_lp]

fp         fixed prototypes: directions of the class means, over the training set, of the outputs of
           SCL's head; nearest cosine; exact, one pass, nothing to train
lp         the head dropped, a linear classifier with bias trained by cross entropy on encoder
           features, with new augmentations each epoch (the paper's protocol)
nlp        the same by NormFace on normalized encoder features
cached_lp  lp on features computed once, without augmentation

Prints a table of test accuracy, geometry, seconds and passes over the training set, and writes
WORKDIR/probe.json.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from hsproto import config as config_lib
from hsproto import config_checks, losses
from hsproto.data import augment, loader, sampler
from hsproto.errors import UserError
from hsproto.evaluation import command
from hsproto.evaluation.evaluator import Embedded, Evaluator, Loaders
from hsproto.evaluation.trained import TrainedRun
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.parallel import processes
from hsproto.runs import summary as summary_lib
from hsproto.training import optimizer

METHODS = ("fp", "lp", "nlp", "cached_lp")


class Protocol(NamedTuple):
    """How linear probes are trained; `decay_epochs`: where the rate falls to a fifth."""

    epochs: float
    learning_rate: float
    decay_epochs: tuple[float, ...]


def probe_config(config: Any, method: str, protocol: Protocol) -> Any:
    """Turn the config of a run into that of a linear probe: SGD, no decay, step schedule.

    Augmentation is random crops and flips alone, as for the paper's classifiers.
    """
    config = config.copy_and_resolve_references()
    config.loss = "normface" if method == "nlp" else "cross_entropy"
    config.epochs, config.lr_batch = float(protocol.epochs), 0
    config.base_lr, config.decay_rate = float(protocol.learning_rate), 0.2
    config.schedule, config.decay_epochs = "step", tuple(protocol.decay_epochs)
    config.warmup_epochs = config.weight_decay = config.logit_adjustment = 0.0
    config.jitter = (0.0, 0.0, 0.0, 0.0)
    config.grayscale_probability = config.blur_probability = 0.0
    config_checks.validate(config)
    return config


def linear_probe(
    config: Any,
    variables: Any,
    batches: Iterable[dict[str, Any]],
    features_of: Callable[[Any, dict[str, Any], jax.Array], jax.Array],
    mesh: Mesh,
) -> tuple[jax.Array, jax.Array | None]:
    """Train a linear classifier on frozen features; return weights [K, D] and bias [K] or None.

    Cross entropy has a bias, NormFace none.

    Args:
        config: of the probe.
        variables: of the encoder; never written.
        batches: of the training set, with "label".
        features_of: (variables, batch, key) -> features [B, D], traced into the step.
    """
    sgd = optimizer.sgd(config, config_lib.steps_per_epoch(config))
    whole = mesh_lib.replicated(mesh)

    def step(params, opt_state, variables, number, batch):
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        features = features_of(variables, batch, key)

        def loss_of(params):
            if config.loss == "normface":
                per_anchor = losses.normface(
                    features, params["prototypes"], batch["label"], temperature=config.temperature
                )
            else:
                per_anchor = losses.cross_entropy(features, **params, labels=batch["label"])
            return per_anchor.mean()

        updates, opt_state = sgd.update(jax.grad(loss_of)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    step = jax.jit(step, donate_argnums=(0, 1), out_shardings=whole)
    params = None
    for number, batch in enumerate(batches):
        if params is None:
            dim = jax.eval_shape(features_of, variables, batch, jax.random.key(0)).shape[1]
            params = jax.device_put(_initial(config, dim), whole)
            opt_state = sgd.init(params)
        params, opt_state = step(params, opt_state, variables, number, batch)
    if config.loss == "normface":
        return params["prototypes"], None
    return params["prototypes"], params["bias"]


def compare_classifiers(
    config: Any,
    variables: Any,
    loaders: Loaders,
    mesh: Mesh,
    protocol: Protocol,
    methods: Sequence[str] = METHODS,
) -> dict[str, dict[str, Any]]:
    """Return {method: {"test", "train", "seconds", "passes"}} of classifiers on a frozen encoder.

    "seconds" is the time to obtain the classifier, compilation included; "passes" counts those of
    the training set through the encoder.
    """
    evaluator = Evaluator(config, loaders, mesh)
    start = time.perf_counter()
    train = evaluator.embed_all(variables, loaders.train)
    jax.block_until_ready(train.features)
    one_pass = time.perf_counter() - start
    test = evaluator.embed_all(variables, loaders.test)
    # Probes see the features of the encoder, fixed prototypes those of the head.
    encoders = [split._replace(projections=split.features) for split in (train, test)]

    results = {}
    for method in methods:
        start = time.perf_counter()
        if method == "fp":
            metrics = evaluator.measure(config, train, test, None, None).metrics
            results[method] = {**metrics, "seconds": one_pass, "passes": 1}
            continue
        probe = probe_config(config, method, protocol)
        steps = config_lib.total_steps(probe)
        if method == "cached_lp":
            batches, features_of = _cached_batches(probe, train, steps), _given_features
        else:
            batches = loaders.train.batches(0, steps)
            features_of = _augmented_features(config, probe)
        weights, bias = linear_probe(probe, variables, batches, features_of, mesh)
        jax.block_until_ready(weights)
        seconds = time.perf_counter() - start + (one_pass if method == "cached_lp" else 0.0)
        metrics = evaluator.measure(probe, *encoders, weights, bias).metrics
        passes = 1 if method == "cached_lp" else probe.epochs
        results[method] = {**metrics, "seconds": seconds, "passes": passes}
        processes.log_main(f"{method}: test accuracy {metrics['test']['accuracy']:.4f}")
    return results


def format_table(results: dict[str, dict[str, Any]]) -> str:
    """Return the main results of the methods as text, one row each."""
    columns = ("nc1", "erank_inter", "erank_weights", "weight_alignment")
    rows = [f"{'':<12}{'accuracy':>9}" + "".join(f"{c:>18}" for c in columns)]
    rows[0] += f"{'seconds':>10}{'passes':>8}"
    for method, result in results.items():
        cells = "".join(f"{summary_lib.format_cell(result['train'].get(c)):>18}" for c in columns)
        rows.append(
            f"{method:<12}{result['test']['accuracy']:>9.4f}{cells}"
            f"{result['seconds']:>10.1f}{result['passes']:>8.0f}"
        )
    rows.append("accuracy on the test set, geometry on the training set")
    return "\n".join(rows)


def _augmented_features(config, probe):
    model = model_lib.build(config, config.num_classes)
    augmented = augment.make_augment(probe)

    def features_of(variables, batch, key):
        images = augmented(key, batch["image"])
        return model_lib.forward(model, variables, images, train=False)[0].features

    return features_of


def _given_features(variables, batch, key):
    return batch["features"]


def _cached_batches(config: Any, embedded: Embedded, steps: int):
    rows = np.flatnonzero(embedded.where)
    order = sampler.Sampler(len(rows), config.batch_size, config.seed)
    take = jax.jit(lambda features, indices: features[indices])
    for number in range(steps):
        indices = rows[order.indices(number)]
        yield {"features": take(embedded.features, indices), "label": embedded.labels[indices]}


def _initial(config, dim):
    """PyTorch's default initialization of a linear layer."""
    keys = jax.random.split(jax.random.key(config.seed))
    bound = dim**-0.5
    params = {
        "prototypes": jax.random.uniform(
            keys[0], (config.num_classes, dim), minval=-bound, maxval=bound
        )
    }
    if config.loss == "cross_entropy":
        params["bias"] = jax.random.uniform(
            keys[1], (config.num_classes,), minval=-bound, maxval=bound
        )
    return params


def measure(run: TrainedRun, args: Any) -> command.Results:
    """Compare classifiers on the frozen encoder of a run."""
    config = run.config.copy_and_resolve_references()
    # Keys that do not matter to a frozen encoder.
    config.update({"microbatches": 1, "loss_groups": 1, "bn_groups": 1})
    config.update({"queue_size": 0, "queue_momentum": 0.0})
    config.update({"sampler": "shuffle", "batch_binding": False})
    mesh_lib.check_divisible("batch_size", config.batch_size, run.mesh)
    loaders = Loaders(*(loader.open_loader(split, config, run.mesh) for split in run.splits))
    results = compare_classifiers(
        config, run.variables, loaders, run.mesh, args.protocol, args.methods
    )
    return command.Results({"step": run.step, **results}, format_table(results))


def main(argv: list[str]) -> int:
    parser = command.make_parser(__doc__, "probe")
    parser.add_argument("--methods", default=",".join(METHODS), help="default: all four")
    parser.add_argument("--epochs", type=float, default=100)
    parser.add_argument("--learning_rate", type=float, default=5.0, help="default: 5, CIFAR's")
    parser.add_argument(
        "--decay_epochs", default="60/75/90", help="where the rate falls to a fifth"
    )
    args = parser.parse_args(argv)
    methods = args.methods.split(",")
    for method in methods:
        if method not in METHODS:
            raise UserError(f"--methods={args.methods}: {method!r} must be one of {METHODS}")
    try:
        decay_epochs = tuple(float(epoch) for epoch in args.decay_epochs.split("/"))
    except ValueError:
        raise UserError(
            f"--decay_epochs={args.decay_epochs} must be epochs joined by /, e.g. 60/75/90"
        ) from None
    args.methods = methods
    args.protocol = Protocol(args.epochs, args.learning_rate, decay_epochs)
    return command.run("probe", args, measure)
