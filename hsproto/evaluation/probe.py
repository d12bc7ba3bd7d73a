"""Four classifiers on one frozen encoder: fixed prototypes and three kinds of linear probing.

  hsproto probe --workdir=runs/scl_digits [--methods=fp,lp,nlp,cached_lp]

fp         directions of the training set's class means of SCL's head outputs, nearest cosine;
           exact, one pass, nothing to train
lp         the head dropped, a linear classifier with bias by cross entropy on encoder features,
           each epoch augmented anew (the paper's protocol)
nlp        the same by NormFace on normalised encoder features
cached_lp  lp on features computed once, without augmentation

A table of test accuracy, geometry, seconds and passes over the training set; in full in
WORKDIR/probe.json.
"""

import os
import time

import jax
import numpy as np
import optax

from hsproto import cli, losses
from hsproto import config as config_lib
from hsproto.data import augment, loader, sampler
from hsproto.data import load as load_lib
from hsproto.errors import UserError
from hsproto.evaluation import trained
from hsproto.evaluation.evaluator import Evaluator, Loaders
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.parallel import processes
from hsproto.runs import summary as summary_lib
from hsproto.runs.files import to_json, write_text
from hsproto.training import optimizer

METHODS = ("fp", "lp", "nlp", "cached_lp")


def probe_config(config, method, *, epochs, learning_rate, decay_epochs):
    """A run's config turned into the linear probe's: loss, SGD without decay, step schedule.

    Augmentation is random crops and flips alone, as for the paper's classifiers.
    """
    config = config.copy_and_resolve_references()
    config.loss = "normface" if method == "nlp" else "cross_entropy"
    config.epochs, config.base_lr, config.lr_batch = float(epochs), float(learning_rate), 0
    config.schedule, config.decay_epochs, config.decay_rate = "step", tuple(decay_epochs), 0.2
    config.warmup_epochs = config.weight_decay = config.logit_adjustment = 0.0
    config.jitter = (0.0, 0.0, 0.0, 0.0)
    config.grayscale_probability = config.blur_probability = 0.0
    config_lib.validate(config)
    return config


def linear_probe(config, variables, batches, features_of, mesh):
    """(weights [K, D], bias [K] or None) of a linear classifier trained on frozen features.

    `features_of(variables, batch, key)`, traced into the step, makes features [B, D] of a batch,
    whose labels are its "label". Cross entropy has a bias, NormFace none. The encoder's variables
    are an input that is never written.
    """
    optimiser = optimizer.sgd(config, config_lib.steps_per_epoch(config))
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

        updates, opt_state = optimiser.update(jax.grad(loss_of)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    step = jax.jit(step, donate_argnums=(0, 1), out_shardings=whole)
    params = None
    for number, batch in enumerate(batches):
        if params is None:
            dim = jax.eval_shape(features_of, variables, batch, jax.random.key(0)).shape[1]
            params = jax.device_put(_initial(config, dim), whole)
            opt_state = optimiser.init(params)
        params, opt_state = step(params, opt_state, variables, number, batch)
    if config.loss == "normface":
        return params["prototypes"], None
    return params["prototypes"], params["bias"]


def compare_classifiers(config, state, feeds, mesh, methods=METHODS, **protocol):
    """{method: {"test", "train", "seconds", "passes"}} of classifiers on a run's frozen encoder.

    Seconds are those until the classifier is there, compilation included; passes are those of the
    training set through the encoder.
    """
    evaluator = Evaluator(config, feeds, mesh)
    start = time.perf_counter()
    train = evaluator.embed_all(state.variables, feeds.train)
    jax.block_until_ready(train.features)
    one_pass = time.perf_counter() - start
    test = evaluator.embed_all(state.variables, feeds.test)
    # Probes see the encoder's features, fixed prototypes what the head makes of them.
    encoders = [split._replace(projections=split.features) for split in (train, test)]

    results = {}
    for method in methods:
        start = time.perf_counter()
        if method == "fp":
            found = evaluator.measure(config, train, test, None, None)
            results[method] = {**found.metrics, "seconds": one_pass, "passes": 1}
            continue
        probe = probe_config(config, method, **protocol)
        steps = config_lib.total_steps(probe)
        if method == "cached_lp":
            batches, features_of = _cached_batches(probe, train, steps), _given_features
        else:
            batches, features_of = feeds.train.batches(0, steps), _augmented_features(config, probe)
        weights, bias = linear_probe(probe, state.variables, batches, features_of, mesh)
        jax.block_until_ready(weights)
        seconds = time.perf_counter() - start + (one_pass if method == "cached_lp" else 0.0)
        found = evaluator.measure(probe, *encoders, weights, bias)
        passes = 1 if method == "cached_lp" else probe.epochs
        results[method] = {**found.metrics, "seconds": seconds, "passes": passes}
        processes.log_main(f"{method}: test accuracy {found.metrics['test']['accuracy']:.4f}")
    return results


def format_table(results):
    """The methods' main figures as text, a row each."""
    columns = ("nc1", "erank_inter", "erank_weights", "weight_alignment")
    rows = [f"{'':<12}{'accuracy':>9}" + "".join(f"{c:>18}" for c in columns)]
    rows[0] += f"{'seconds':>10}{'passes':>8}"
    for method, found in results.items():
        cells = "".join(f"{summary_lib.format_cell(found['train'].get(c)):>18}" for c in columns)
        rows.append(
            f"{method:<12}{found['test']['accuracy']:>9.4f}{cells}"
            f"{found['seconds']:>10.1f}{found['passes']:>8.0f}"
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


def _cached_batches(config, embedded, steps):
    rows = np.flatnonzero(embedded.where)
    order = sampler.Sampler(len(rows), config.batch_size, config.seed)
    take = jax.jit(lambda features, indices: features[indices])
    for number in range(steps):
        indices = rows[order.indices(number)]
        yield {"features": take(embedded.features, indices), "label": embedded.labels[indices]}


def _initial(config, dim):
    """PyTorch's default of a linear layer."""
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


def main(argv):
    parser = cli.Parser(__doc__, prog="hsproto probe")
    cli.add_run_flags(parser)
    parser.add_argument("--methods", default=",".join(METHODS), help="default: all four")
    parser.add_argument("--epochs", type=float, default=100)
    parser.add_argument("--learning_rate", type=float, default=5.0, help="default: 5, CIFAR's")
    parser.add_argument(
        "--decay_epochs", default="60/75/90", help="where the rate falls to a fifth"
    )
    processes.add_flags(parser)
    args = parser.parse_args(argv)
    methods = args.methods.split(",")
    for method in methods:
        if method not in METHODS:
            raise UserError(f"--methods={args.methods}: {method!r} must be one of {METHODS}")
    try:
        decay_epochs = [float(e) for e in args.decay_epochs.split("/")]
    except ValueError:
        raise UserError(f"--decay_epochs={args.decay_epochs} must be as 60/75/90") from None
    processes.join(args)
    mesh = mesh_lib.make_mesh()
    config, state, step = trained.load_state(args.workdir, mesh, args.checkpoint)
    # Of what a frozen encoder has no use for.
    config.update({"microbatches": 1, "loss_groups": 1, "bn_groups": 1})
    config.update({"queue_size": 0, "queue_momentum": 0.0})
    config.update({"sampler": "shuffle", "batch_binding": False})
    for key in ("batch_size", "eval_batch_size"):
        mesh_lib.check_divisible(key, config[key], mesh)
    splits = load_lib.load_splits(config)
    feeds = Loaders(*(loader.open_loader(split, config, mesh) for split in splits))
    protocol = {"epochs": args.epochs, "learning_rate": args.learning_rate}
    with processes.exit_if_process_lost():
        results = compare_classifiers(
            config, state, feeds, mesh, methods, decay_epochs=decay_epochs, **protocol
        )
    if processes.is_main():
        write_text(
            os.path.join(args.workdir, "probe.json"), to_json({"step": step, **results}, indent=1)
        )
    processes.log_main(format_table(results))
    return 0
