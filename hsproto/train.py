"""Train a network on the hypersphere: from a config to a table of accuracy and geometry.

  hsproto train --config=digits --workdir=runs/digits

The same command resumes a stopped run.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["train", *sys.argv[1:]])

import argparse
import os
import warnings
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto import config_checks
from hsproto.data import check as check_lib
from hsproto.data import fingerprint as fingerprint_lib
from hsproto.data import load as load_lib
from hsproto.data import loader, long_tail, sampler
from hsproto.errors import RunFailure, one_line, visible
from hsproto.evaluation import mistakes
from hsproto.evaluation.evaluator import Evaluator, Loaders
from hsproto.models import architecture, pretrained
from hsproto.parallel import agreement, processes
from hsproto.parallel import mesh as mesh_lib
from hsproto.parallel.preemption import Preemption
from hsproto.parallel.processes import log_main
from hsproto.reporting.figures import runs as run_figures
from hsproto.runs import config_file, data_file, next_steps
from hsproto.runs import summary as summary_lib
from hsproto.runs.metrics_log import MetricsWriter, check_tensorboard
from hsproto.runs.snapshots import SnapshotWriter
from hsproto.runs.storage import persist
from hsproto.training import best as best_lib
from hsproto.training import frozen, inspection, known_data, memory, objective
from hsproto.training import state as state_lib
from hsproto.training import workdir as workdir_lib
from hsproto.training.checkpoint import CONFIG, Checkpoints
from hsproto.training.loop import Collaborators, TrainingLoop
from hsproto.training.profiler import Profile

# What the processes of a run need not have in common.
_EACH_ITS_OWN = ("data_dir", "workers")
_FROM_DATA = ("num_classes", "num_examples", "channels", "mean", "std", "interpolation", "crop_on")


def train(
    config: ConfigDict, workdir: str, profile_steps: int = 0, compiled_step: str = ""
) -> dict | None:
    """Start or resume the run of `config` in `workdir`.

    Args:
        config: The run's config.
        workdir: The run's folder.
        profile_steps: Steps to profile (`hsproto.training.profiler`); 0: none.
        compiled_step: A file of `hsproto compile --save` with the step; "": it is compiled here.

    Returns:
        The run's summary, or None if it was stopped (`parallel.preemption`).

    Raises:
        UserError: Before any training, for what the user can fix.
        NonFiniteLoss: If training diverges.
        RunFailure: If the results could not be kept, or the workdir was removed.
    """
    with Preemption() as preemption:
        try:
            return _train(config, workdir, profile_steps, compiled_step, preemption)
        except FileNotFoundError:
            if os.path.exists(workdir):
                raise
            raise RunFailure(f"--workdir={workdir} was removed while its run went on") from None


def _train(config, workdir, profile_steps, compiled_step, preemption):
    shared = {key: value for key, value in config.to_dict().items() if key not in _EACH_ITS_OWN}
    code = agreement.code_digests()
    processes.agree({"config": shared, "versions": summary_lib.versions(), "code": code})
    mesh = mesh_lib.make_mesh(model_axis=config.model_axis)
    _check(config, mesh)
    with workdir_lib.owned(workdir):
        found = _find(config, workdir)
        _log_run(found.config, workdir, mesh)
        if summary := _finished(workdir, found.config):
            return summary
        abstract_state, loaders = _open(found, mesh)
        if compiled_step:
            from hsproto.hardware import saved  # no other run needs that wing

            found = found._replace(step=saved.load(compiled_step, found.config, mesh))
        # Only now: rejected input must not claim the workdir for a config that cannot run.
        if processes.is_main():
            data_file.write(workdir, found.data)  # before config.json, which makes it a run
            config_file.write(workdir, found.config)
        return _fit(found, abstract_state, loaders, workdir, profile_steps, preemption, mesh)


class _Found(NamedTuple):
    """What a run is made of.

    Attributes:
        config: Resolved.
        splits: The training and the test source.
        data: Their fingerprint.
        weights: Of `init_from`, where the run begins; else None.
        step: Compiled ahead; else None.
    """

    config: ConfigDict
    splits: load_lib.Splits
    data: dict[str, Any]
    weights: Any
    step: Any = None


def _find(config, workdir):
    """Read the data and the weights, and compare them with those of an earlier start."""
    earlier = workdir_lib.claim(workdir, config)
    config = _with_freezing(_with_dataset(config, earlier), earlier)
    weights = None if earlier else pretrained.load(config.init_from)
    if config.init_from:
        config = _with_preprocessing(config, earlier, weights)
    splits = load_lib.load_splits(config)
    data = fingerprint_lib.fingerprint(splits)
    processes.agree({"data": data})
    if earlier is not None:
        known_data.check(workdir, data, "restore the data, or use another --workdir")
    config = load_lib.resolve(config, splits, earlier)
    if earlier is not None:
        workdir_lib.check_same_run(workdir, config, earlier)
    config_checks.validate(config)
    processes.agree({"from the data": {key: config[key] for key in _FROM_DATA}})
    architecture.validate(config, config.num_classes)
    return _Found(config, splits, data, weights)


def _open(found, mesh):
    """Return the abstract state and the loaders. Reject what has no room or cannot be sampled."""
    config, splits = found.config, found.splits
    abstract_state = state_lib.abstract(config, mesh)
    memory.check(config, abstract_state, mesh)
    if found.weights:  # which may not fit the network
        pretrained.fill(config, found.weights, abstract_state.variables)
    sampler.make(splits.train, config)
    if config.logit_adjustment:  # which rejects classes without images
        objective.log_prior(long_tail.class_counts(splits.train))
    return abstract_state, Loaders(*(loader.open_loader(each, config, mesh) for each in splits))


def _fit(found, abstract_state, loaders, workdir, profile_steps, preemption, mesh):
    """Train from the newest checkpoint, or the start, to the end, and write the results."""
    config, splits = found.config, found.splits
    metadata = {known_data.KEY: found.data, CONFIG: config_lib.to_values(config)}
    best = best_lib.Best()
    with Checkpoints(
        workdir,
        config.keep_checkpoints,
        metadata,
        mark=config_file.NAME,
        best=best if config.keep_best else None,
    ) as checkpoints:
        restored = checkpoints.restore(abstract_state)
        if restored is None:
            state = _initial_state(config, mesh, found.weights)
            if start := frozen.steps(config):
                state = frozen.train_head(config, state, loaders.train, mesh, workdir)
                checkpoints.ensure(start, state, inspection.inspect(state).digest)
        else:
            state, start = restored
            log_main(f"resuming at step {start}")
            best.resume(workdir, start, checkpoints.steps())
        active = processes.is_main()
        with (
            MetricsWriter(workdir, start, config.tensorboard, active) as metrics,
            SnapshotWriter(workdir, start, splits.test, active) as snapshots,
            Profile(workdir, profile_steps, log_main) as profile,
        ):
            evaluator = Evaluator(config, loaders, mesh)
            collaborators = Collaborators(
                loaders.train, evaluator, checkpoints, metrics, snapshots, profile, best
            )
            loop = TrainingLoop(config, mesh, collaborators, found.step)
            evaluation = loop.run(state, start, preemption)
        better = config.keep_best and best.step != loop.total and best.step in checkpoints.steps()
        if evaluation is None:
            return None
    summary = summary_lib.summarize(
        config, loop.total, evaluation, mesh, loop.progress.images_per_second
    )
    if processes.is_main():
        _write_results(config, workdir, summary, evaluation, splits)
        if better:
            log_main(next_steps.better_state(workdir, best.step, best.accuracy))
        if metrics.failure:
            raise RunFailure(metrics.failure)
    return summary


def _with_dataset(config, earlier):
    """Return the config with the folder's name for a data set that has no other."""
    if config.dataset:
        return config
    config = config.copy_and_resolve_references()
    folder = os.path.basename(os.path.abspath(os.path.expanduser(config.data_dir)))
    config.dataset = earlier.dataset if earlier else folder
    return config


def _with_freezing(config, earlier):
    """Return the config with the epochs of the frozen phase decided, where they are left open."""
    if config.freeze_epochs >= 0:
        return config
    config = config.copy_and_resolve_references()
    if earlier:
        config.freeze_epochs = earlier.freeze_epochs
    elif jax.default_backend() == "cpu":
        config.freeze_epochs = config.epochs
        log_main(
            "no accelerator: the backbone stays frozen; freeze_epochs below epochs trains all of it"
        )
    else:
        config.freeze_epochs = config.epochs / 2
        log_main(f"the whole network learns after freeze_epochs={config.freeze_epochs:g}")
    return config


def _with_preprocessing(config, earlier, weights):
    """Return the config with what belongs to weights where it says nothing: mean, std, resizing."""
    prepared = earlier or pretrained.preprocessing(weights)
    if weights and prepared.size not in (0, config.image_size):
        log_main(
            f"note: the weights of {config.init_from} are of images of {prepared.size} px, "
            f"image_size={config.image_size} here"
        )
    config = config.copy_and_resolve_references()
    if not config.interpolation:
        config.interpolation = _interpolation(config, prepared)
    if not (config.mean or config.std or config.channels != 3):
        config.mean, config.std = prepared.mean, prepared.std
    return config


def _interpolation(config, prepared):
    if prepared.interpolation in ("", *config_lib.INTERPOLATIONS):
        return prepared.interpolation
    ours = config_lib.INTERPOLATIONS[0]
    log_main(
        f"note: the images of the weights of {config.init_from} were resized by "
        f"{visible(prepared.interpolation)}; here they are by {ours}"
    )
    return ours


def _initial_state(config, mesh, weights):
    state = state_lib.create(config, mesh)
    # A run that was stopped before its first checkpoint begins anew.
    weights = weights or pretrained.load(config.init_from)
    if weights is None:
        return state
    log_main(f"{config.backbone} starts from {config.init_from}")
    return state_lib.with_backbone(state, pretrained.fill(config, weights, state.variables))


def _write_results(config, workdir, summary, evaluation, splits):
    class_names = splits.train.class_names
    found = []

    def write():
        if evaluation.predictions.margins is not None:
            found[:] = [mistakes.write(workdir, evaluation.predictions, splits.test)]
        # Last: it marks the run as finished.
        summary_lib.write_results(workdir, summary, evaluation, class_names)

    error = persist(write)
    log_main(summary_lib.format_table(summary))
    if error:
        raise RunFailure(
            f"--workdir={workdir}: the results could not be written: {one_line(error)}; the last "
            "checkpoint is kept, and the same command writes them when the storage is mended"
        )
    _draw(workdir)
    for text in found:
        log_main(text)
    log_main(next_steps.describe(workdir, config.source))


def _draw(workdir):
    """Write the pictures, without which a run is finished too."""
    try:
        run_figures.write_figures(workdir, workdir)
    except Exception as error:  # e.g. a name that a font or a format cannot show
        warnings.warn(
            f"the pictures could not be written: {one_line(error)}; the same command draws them",
            stacklevel=2,
        )


def _check(config, mesh):
    """Check what needs no data."""
    config_checks.validate(config)
    if config.tensorboard:
        check_tensorboard()
    key = "batch_size" if config.microbatches == 1 else "batch_size / microbatches"
    mesh_lib.check_divisible(key, config.batch_size // config.microbatches, mesh)
    mesh_lib.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
    architecture.validate(config)


def _finished(workdir, config):
    """Return the summary of a finished run, drawing missing figures; None if it is not finished."""
    if not os.path.exists(os.path.join(workdir, "summary.json")):
        return None
    summary = summary_lib.read_summary(workdir)
    if summary["step"] != config_lib.total_steps(config):
        return None
    log_main(f"finished already\n{summary_lib.format_table(summary)}")
    if processes.is_main() and not run_figures.has_figures(workdir):
        _draw(workdir)
    log_main(next_steps.describe(workdir, config.source))
    return summary


def _log_run(config, workdir, mesh):
    device = mesh.devices.flat[0]
    log_main(
        f"{config.dataset}: {config.num_examples} training images of {config.num_classes} classes; "
        f"{config.backbone}, {config.loss}, {config_lib.total_steps(config)} steps of "
        f"{config.batch_size} on {mesh.size} {device.device_kind} device(s); {workdir}"
    )


def _positive_integer(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive integer, e.g. 20")
    return int(text)


def main(argv: list[str]) -> int:
    """Run `hsproto train` and return its exit status."""
    parser = cli.Parser(__doc__, prog="hsproto train")
    parser.add_argument(
        "--workdir",
        type=cli.local_path,
        required=True,
        help="the run's folder; if it holds a run, resume it",
    )
    parser.add_argument(
        "--profile", type=_positive_integer, nargs="?", const=20, default=0, metavar="STEPS",
        help="trace that many steps (default 20) and print how long they waited for input",
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true",
        help="decode every image, list those that cannot be used, and train nothing",
    )  # fmt: skip
    parser.add_argument(
        "--compiled_step", type=cli.local_path, default="", metavar="FILE",
        help="a training step that `hsproto compile --save` made for this hardware; a pickle, "
        "which can run code: use only your own",
    )  # fmt: skip
    processes.add_flags(parser)
    args, config = parser.parse_with_config(argv)
    if args.check:
        return check_lib.check(config)
    processes.join(args)
    with processes.together():
        train(config, args.workdir, args.profile, args.compiled_step)
    return 0
