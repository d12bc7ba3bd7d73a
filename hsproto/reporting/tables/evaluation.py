"""Tables of what the commands that measure finished runs have left in their workdirs.

As in `hsproto.reporting.tables.training`: from a list of `run.Run`; accuracies, errors and shares
are in per cent.
"""

import os

from hsproto.methods import ENCODER_LOSSES
from hsproto.metrics import METRICS, TABLE_COLUMNS
from hsproto.reporting import naming, paper_results
from hsproto.reporting.paper_protocol import paper_set
from hsproto.reporting.table import defined
from hsproto.reporting.tables.assemble import Entry, assemble, drop_empty, percent
from hsproto.runs.run import data_set, imbalance_factor

PROBES = {"fp": "fixed prototypes", "lp": "LP", "nlp": "NLP", "cached_lp": "cached LP"}
SCORES = {"max_cosine": "max cosine", "energy": "energy", "knn": "kNN"}


def classifiers(found):
    """Tables 2, 8 and 14: classifiers on frozen encoders, and their cost and geometry."""
    accuracies, others = [], {}
    for run in _having(found, "probe"):
        if run.config["loss"] not in ENCODER_LOSSES:
            continue
        step, head = run.measured["probe"].get("step"), run.config.get("projection", "none")
        for method, result in probes(run).items():
            passes = f"{result['passes']:g}" if defined(result.get("passes")) else "-"
            extra = PROBES.get(method, method), head, passes
            paper = None
            if run.config["loss"] == "scl" and imbalance_factor(run) == 1:
                paper = paper_results.CLASSIFIERS.get((method, head), {}).get(paper_set(run))
            value = percent(result.get("test", {}).get("accuracy"))
            accuracies.append(Entry(run, step, extra, data_set(run), value, paper))
            here = others.setdefault(data_set(run), [])
            here.append(Entry(run, step, extra, "seconds", result.get("seconds"), None, 1))
            train = result.get("train", {})
            here += [
                Entry(
                    run, step, extra, METRICS[key].column, train.get(key), None, METRICS[key].digits
                )
                for key in TABLE_COLUMNS
            ]
    labels = ("encoder", "classifier", "head", "passes")
    note = (
        "Test accuracy in per cent on one frozen encoder. Passes are those of the training set "
        "through it; fixed prototypes are of what the head gives, the others are trained on the "
        "encoder's features."
    )
    columns = naming.in_paper_order({e.column for e in accuracies})
    title = "Classifiers of an encoder (Tables 2, 8, 14)"
    omit = ("projection",)
    made = [
        assemble(
            accuracies, "classifiers", title, labels, note=note, columns=columns, best=max,
            omit=omit,
        )
    ]  # fmt: skip
    for name, entries in others.items():
        made.append(
            assemble(
                entries, f"classifiers_{name}", f"Cost and geometry of classifiers: {name}", labels,
                note="Seconds until the classifier is there; geometry of the training set.",
                omit=omit,
            )
        )  # fmt: skip
    return drop_empty(*made)


def transfer(found):
    """Table 4: linear classifiers on frozen encoders, top-1 and per class, by data set and mean."""
    top, per_class = [], []
    for run in _having(found, "transfer"):
        results = run.measured["transfer"].get("datasets", {})
        for name, result in results.items():
            step = result.get("protocol", {}).get("step")
            column = (name, result.get("train_images"), result.get("test_images"))
            value = result.get("accuracy")
            value = result.get("average_precision") if value is None else value
            paper = paper_results.TRANSFER.get(run.config["loss"], {}).get(name)
            extra = (data_set(run),)
            top.append(Entry(run, step, extra, column, percent(value), paper))
            value = percent(result.get("accuracy_per_class"))
            per_class.append(Entry(run, step, extra, column, value))
    names = _transfer_columns(top)
    top = [entry._replace(column=names[entry.column]) for entry in top]
    per_class = [e._replace(column=names[e.column]) for e in per_class if e.value is not None]
    note = (
        "Per cent; top-1, of sets of several labels 11-point mean average precision. The paper "
        "does not tell which set its encoders were trained on. A mean is given where all sets "
        "were measured."
    )
    labels, made = ("loss", "trained on"), []
    ordered = naming.in_paper_order(names.values(), paper_results.TRANSFER_SETS)
    if len(ordered) > 1:
        top += _transfer_means(top, ordered)
    made.append(
        assemble(
            top, "transfer", "Transfer (Table 4)", labels, note=note, best=max,
            columns=[*ordered, "mean"] if len(ordered) > 1 else ordered,
        )
    )  # fmt: skip
    made.append(
        assemble(
            per_class, "transfer_per_class", "Transfer, mean accuracy of the classes", labels,
            note="Per cent.", best=max,
            columns=[c for c in ordered if any(e.column == c for e in per_class)],
        )
    )  # fmt: skip
    return drop_empty(*made)


def robustness(found):
    """Table 5: errors on clean and on corrupted test images, and mCE where it is defined."""
    entries = []
    for run in _having(found, "robustness"):
        results = run.measured["robustness"]
        for path, result in results.items():
            made = "generated" if result.get("generated") else "as published"
            extra = (data_set(run), _short(path, results), made, str(result.get("counted", "-")))
            paper = {}
            standard = result.get("layout") == "folder" and result.get("mce") is not None
            if standard and paper_set(run) == "imagenet2012" and not result.get("generated"):
                paper = paper_results.ROBUSTNESS.get(run.config["loss"], {})
            for column, value, key in (
                ("clean error", percent(result.get("clean_error")), "clean_error"),
                ("mean corruption error", percent(result.get("mean_error")), None),
                ("mCE", result.get("mce"), "mce"),
            ):
                entries.append(Entry(run, result.get("step"), extra, column, value, paper.get(key)))
    labels = ("loss", "trained on", "corrupted set", "images", "corruptions")
    note = "Top-1 errors in per cent; mCE relates them to AlexNet's on ImageNet-C."
    return drop_empty(
        assemble(
            entries, "robustness", "Robustness (Table 5)", labels, note=note, best=min
        )
    )  # fmt: skip


def ood(found):
    """AUROC and FPR95 by score and set of other images."""
    entries = []
    for run in _having(found, "ood"):
        content = run.measured["ood"]
        others = content.get("others", {})
        for other, scores in others.items():
            extra = (data_set(run), _short(other, others), str(content.get("k", "-")))
            for score, name in SCORES.items():
                for key in ("auroc", "fpr95"):
                    value = percent(scores.get(score, {}).get(key))
                    entries.append(
                        Entry(run, content.get("step"), extra, f"{name} {key.upper()}", value)
                    )
    labels = ("loss", "trained on", "other images", "k of kNN")
    note = "Per cent. AUROC is better the higher, FPR95 the lower."
    return drop_empty(assemble(entries, "ood", "Out-of-distribution detection", labels, note=note))


def calibration(found):
    """ECE and NLL before and after a temperature is fitted."""
    entries = []
    for run in _having(found, "calibration"):
        content = run.measured["calibration"]
        extra = (data_set(run), str(content.get("bins", "-")), str(content.get("fit_share", "-")))
        before, after = content.get("before", {}), content.get("after", {})
        for column, value, digits in (
            ("accuracy", percent(content.get("accuracy")), 2),
            ("ECE", percent(before.get("ece")), 2),
            ("ECE after", percent(after.get("ece")), 2),
            ("NLL", before.get("nll"), 4),
            ("NLL after", after.get("nll"), 4),
            ("fitted temperature", content.get("fitted_temperature"), 4),
        ):
            entries.append(Entry(run, content.get("step"), extra, column, value, None, digits))
    labels = ("loss", "trained on", "bins", "share fitted")
    note = "Accuracy and ECE in per cent, NLL in nats, on the test images that were not fitted."
    return drop_empty(assemble(entries, "calibration", "Calibration", labels, note=note))


def retrieval(found):
    """Recall and mean average precision of the test images among themselves."""
    entries = []
    for run in _having(found, "retrieval"):
        content = run.measured["retrieval"]
        values = content.get("test", {}) | content
        extra = [
            data_set(run),
            *(str(values.get(k, "-")) for k in ("labels", "features", "images")),
        ]
        for k in (1, 2, 4, 8):
            value = percent(values.get(f"recall@{k}"))
            entries.append(Entry(run, values.get("step"), tuple(extra), f"R@{k}", value))
        value = percent(values.get("map@r"))
        entries.append(Entry(run, values.get("step"), tuple(extra), "MAP@R", value))
    labels = ("loss", "trained on", "labels", "features", "images")
    return drop_empty(
        assemble(entries, "retrieval", "Retrieval", labels, note="Per cent.", best=max)
    )


def probes(run):
    """{method: its results} of a run's probe.json, in the order of PROBES."""
    content = run.measured.get("probe", {})
    return {method: content[method] for method in PROBES if method in content}


def _having(found, kind):
    return [run for run in found if kind in run.measured]


def _short(path, others):
    """The last part of a path, or all of it where another one ends like it."""
    ends = [os.path.basename(os.path.normpath(other)) for other in others]
    end = os.path.basename(os.path.normpath(path))
    return end if ends.count(end) == 1 else path


def _transfer_columns(entries):
    """{(set, training images, test images): name}, with the images where sets share a name."""
    kinds = dict.fromkeys(entry.column for entry in entries)
    names = [name for name, _, _ in kinds]
    return {
        kind: kind[0] if names.count(kind[0]) == 1 else f"{kind[0]} ({kind[1]} + {kind[2]} images)"
        for kind in kinds
    }


def _transfer_means(entries, columns):
    """An entry more for each run and step that has a value of all columns: their mean."""
    by_state = {}
    for entry in entries:
        by_state.setdefault((entry.run.workdir, entry.step), {})[entry.column] = entry
    means = []
    for of_state in by_state.values():
        values = [of_state[c].value for c in columns if c in of_state]
        if len(values) == len(columns) and all(map(defined, values)):
            entry = next(iter(of_state.values()))
            paper = paper_results.TRANSFER.get(entry.run.config["loss"], {}).get("mean")
            same_sets = set(columns) == set(paper_results.TRANSFER_SETS)
            mean = sum(values) / len(values)
            means.append(
                entry._replace(column="mean", value=mean, paper=paper if same_sets else None)
            )
    return means
