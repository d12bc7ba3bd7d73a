"""Runs with snapshots written by hand, for what shows them: no network is trained."""

import made_runs
import numpy as np

from hsproto.runs import predictions_file

# What does harm where a text from outside is taken for markup.
HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror=window.hurt=1> & \"'<b>bold"


def evaluated(step, **values):
    return {"step": step} | {f"{s}/{k}": v for s in ("test", "train") for k, v in values.items()}


def run(
    folder, name, *, steps=(20, 40, 60, 80, 100), classes=4, dim=3, points=40, side=6, names=None,
    finished=True, snapshots=True, predictions=None, wrong=2, seed=0, goal=0.01, **config,
):  # fmt: skip
    """The workdir of a run that collapses over `steps` to a weight alignment of `goal`.

    Its last snapshot takes the last `wrong` images for the next class. predictions: `Predicted` of
    the whole test set, where it has kept them.
    """
    random = np.random.default_rng([seed, classes])
    names = names or [f"class {c}" for c in range(classes)]
    shares = np.linspace(1 / len(steps), 1, len(steps))
    records = [{"step": s, "loss": 1 / s, "accuracy": 0.5} for s in range(5, steps[-1], 5)]
    for step, share in zip(steps, shares, strict=True):
        measures = {"accuracy": 0.4 + 0.5 * share, "weight_alignment": 2 * (goal / 2) ** share}
        measures |= {"nc1": 0.5 * goal**share, "erank_weights": (classes - 1) * share**0.2}
        measures |= {"cosine_prototypes_mean": 0.1 - 0.1 * share, "mir_gap": None}
        measures |= {"instance_alignment": 2 * goal**share}
        records.append(evaluated(step, **measures))
    config = {"num_classes": classes, "dataset": "toy", "embedding": "signed"} | config
    config = {"embedding_dim": dim, "seed": seed, "num_examples": 100 * classes} | config
    workdir = made_runs.write(
        folder, name, test=measures, train=measures, step=steps[-1], finished=finished,
        records=sorted(records, key=lambda record: record["step"]), **config,
    )  # fmt: skip
    ends = np.linalg.qr(random.normal(size=(max(classes, dim),) * 2))[0][:classes, :dim]
    ends = ends / np.linalg.norm(ends, axis=1, keepdims=True)
    if finished:
        np.savez(workdir / "prototypes.npz", prototypes=ends, class_means=ends, class_names=names)
    if predictions:
        predictions_file.write(workdir, steps[-1], predictions)
    if snapshots:
        write_snapshots(workdir, steps, shares, ends, names, points, side, wrong, random)
    return workdir


def write_snapshots(workdir, steps, shares, ends, names, points, side, wrong, random):
    (workdir / "snapshots").mkdir()
    labels = np.sort(np.arange(points) % len(ends)).astype(np.int32)
    np.savez(
        workdir / "snapshots" / "points.npz", rows=np.arange(points, dtype=np.int32), labels=labels,
        images=random.integers(0, 256, (points, side, side, 3), dtype=np.uint8), class_names=names,
    )  # fmt: skip
    starts = random.normal(size=ends.shape)
    for step, share in zip(steps, shares, strict=True):
        prototypes = ((1 - share) * starts + share * ends) * 2
        features = prototypes[labels] + (1.1 - share) * random.normal(size=(points, ends.shape[1]))
        predicted = labels.copy()
        predicted[points - wrong :] = (predicted[points - wrong :] + 1) % len(ends)
        np.savez(
            workdir / "snapshots" / f"{step:08d}.npz",
            features=features.astype(np.float32), predicted=predicted, means=prototypes,
            classes=np.arange(len(ends), dtype=np.int32), prototypes=prototypes.astype(np.float32),
        )  # fmt: skip
