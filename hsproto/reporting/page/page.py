"""The page of runs: OUT/index.html, one file that needs nothing else, and its data beside.

What `hsproto.report` found, to look at in a browser: the table of methods, features and prototypes
on the sphere over training, curves, classes, images, and how each run was made. The file opens from
a disk or a static host and asks for nothing from the network, which its Content-Security-Policy
forbids. plotly.js, which draws the charts, stands in it (`vendor/`).

data.json has what the page shows but for images, data.csv its tables and curves with a line for
each value, and sphere.csv the points of the sphere. Of the cosines between the prototypes of many
classes (`classes.MOST_ROWS`) the data have mean, std and the nearest and furthest pairs; the
run's prototypes.npz gives the rest.
"""

import base64
import csv
import hashlib
import importlib.resources
import io
import os

import jinja2
from markupsafe import Markup

from hsproto import metrics as metrics_lib
from hsproto.reporting import naming
from hsproto.reporting.page import classes as page_classes
from hsproto.reporting.page import methods as page_methods
from hsproto.reporting.page import runs as page_runs
from hsproto.reporting.page import sphere as page_sphere
from hsproto.reporting.table import number
from hsproto.runs import run as run_lib
from hsproto.runs import summary as summary_lib
from hsproto.runs.files import to_json, write_text

# In the order in which they run.
SCRIPTS = ("common.js", "table.js", "panels.js", "sphere.js", "dynamics.js")
LIBRARY = "plotly-gl3d.min.js"


def write(found, out, measures, remarks=()):
    """Writes the page of `found`, a list of `run.Run`, into the folder `out`.

    No two runs have the same settings and seed (`grouping.drop_duplicates`). measures: {name:
    Metric} of those whose curves are shown, in order. remarks: lines to show above. Returns the
    paths that were written.
    """
    told = collect(found, measures)
    texts = {
        "index.html": render(told, remarks),
        "data.json": to_json(_plain(told)),
        "data.csv": values_csv(told),
        "sphere.csv": sphere_csv(told),
    }
    paths = []
    for name, text in texts.items():
        paths.append(os.path.join(out, name))
        write_text(paths[-1], text)
    return paths


def collect(found, measures):
    """All that the page shows of runs, as dicts and lists; large arrays are `Packed`."""
    names, looks = naming.run_labels(found), page_runs.line_styles(found)
    of_each = page_sphere.steps_of_each(
        sum(page_sphere.has_snapshots(run.workdir) for run in found)
    )
    told = []
    for number_, run in enumerate(found):
        frames = page_sphere.frames(run.workdir, of_each)
        wrong, right = page_sphere.images(frames) if frames else ([], [])
        told.append(
            {
                "id": f"run{number_}",
                "label": names[run.workdir],
                "name": run.name,
                "data": run_lib.data_set(run),
                "loss": run.config["loss"],
                "loss_name": naming.loss_name(run.config["loss"]),
                "classes": run.config.get("num_classes"),
                "finished": run.summary is not None,
                "reached": run_lib.last_step(run),
                "total": run_lib.total_steps(run),
                "broken_lines": run.broken_lines,
                "facts": page_runs.facts(run),
                "look": looks[run.workdir],
                "optimum": summary_lib.optimum(run),
                "curves": page_runs.curves(run, measures),
                "converged": page_runs.converged(run),
                "sphere": page_sphere.view(frames) if frames else None,
                "by_class": page_classes.class_view(run, frames),
                "images": {"wrong": wrong, "right": right},
                "last_snapshot": frames.steps[-1]["step"] if frames else None,
                "card": page_runs.card(run),
            }
        )
    methods = [
        {key: row[key] for key in ("data", "name", "loss", "seeds", "note", "cells")}
        for row in page_methods.methods(found)
    ]
    return {
        "runs": told,
        "summary": page_runs.summary(found),
        "methods": methods,
        # The columns before the values: those in which rows differ.
        "heads": ["method"]
        + ["data"] * (len({row["data"] for row in methods}) > 1)
        + ["seeds"] * any(row["seeds"] > 1 for row in methods),
        "no_simplex": not all(summary_lib.has_simplex(run) for run in found),
        "note": naming.row_names(found).note,
        "measures": [_measure(key, metric.meaning) for key, metric in measures.items()]
        + [_measure(key, meaning) for key, meaning in page_runs.OF_BATCHES.items()],
    }


def _measure(key, meaning):
    falls = key in page_runs.LOG_SCALE
    return {"key": key, "meaning": meaning, "log": falls, "of_batches": key in page_runs.OF_BATCHES}


def render(told, remarks=()):
    """The text of index.html of what `collect` gives."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hsproto.reporting.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "cosine": lambda value: _number(value, 2)}
    environment.filters["minus"] = _minus
    page = [
        {key: run[key] for key in _IN_THE_PAGE}
        | {"sphere": _for_page(run["sphere"]), "converged": run["converged"]}
        for run in told["runs"]
    ]
    # What `<`, `>`, `&` and quotes are in text from outside cannot end the element it stands in.
    data = jinja2.utils.htmlsafe_json_dumps(
        {"runs": page, "measures": told["measures"]}, dumps=to_json, separators=(",", ":")
    )
    library = _asset("vendor", LIBRARY)
    script = "\n".join(_asset("templates", name) for name in SCRIPTS)
    return environment.get_template("page.html").render(
        told=told,
        remarks=remarks,
        columns={key: metrics_lib.METRICS[key].title for key in metrics_lib.PAGE_COLUMNS},
        convergence=metrics_lib.CONVERGENCE,
        data=data,
        # Code of this package, which needs no escaping.
        style=Markup(_asset("templates", "page.css")),
        library=Markup(library),
        script=Markup(script),
        allowed=" ".join(f"'sha256-{_hash(text)}'" for text in (library, script)),
    )


_IN_THE_PAGE = ("id", "label", "data", "loss", "classes", "finished", "reached", "total", "look")
_IN_THE_PAGE += ("optimum", "curves")


def _asset(folder, name):
    text = (
        importlib.resources.files("hsproto.reporting.page")
        .joinpath(folder, name)
        .read_text("utf-8")
    )
    if "</script" in text.lower():
        raise ValueError(f"{name} would end the element that holds it")
    return text


def _hash(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _number(value, digits=None):
    return "–" if value is None else _minus(number(value, digits))


def _minus(text):
    """A number's text with the sign that is as wide as a plus."""
    return f"−{text[1:]}" if text.startswith("-") else text


def _for_page(value):
    return _mapped(value, page_sphere.Packed.for_page)


def _plain(value):
    return _mapped(value, page_sphere.Packed.plain)


def _mapped(value, unpack):
    """The same dicts and lists with each `Packed` as `unpack` has it; images are left out."""
    if isinstance(value, page_sphere.Packed):
        return unpack(value)
    if isinstance(value, page_methods.Cell):
        return value._asdict()
    if isinstance(value, dict):
        left_out = ("png", "picture", "matrix")
        return {key: _mapped(each, unpack) for key, each in value.items() if key not in left_out}
    if isinstance(value, list | tuple):
        return [_mapped(each, unpack) for each in value]
    return value


def values_csv(told):
    """Tables and curves: a line for each value that is defined."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("part", "run", "step", "split", "measure", "of", "value"))
    for row in told["methods"]:
        name = f"{row['data']}, {row['name']}" + (f", {row['note']}" if row["note"] else "")
        for (key, split), cell in zip(metrics_lib.PAGE_COLUMNS.items(), row["cells"], strict=True):
            if cell.value is not None:
                lines.writerow(("methods", name, "", split, key, cell.text, cell.value))
    for run in told["runs"]:
        for step, split, key, value in _points(run["curves"]):
            lines.writerow(("dynamics", run["label"], step, split, key, "", value))
        for key, found in run["converged"].items():
            if found["step"] is not None:
                cells = ("convergence", run["label"], found["step"], "train", key)
                lines.writerow((*cells, "share of training in %", found["share"]))
        by_class = run["by_class"]
        for measure, of, value in _cosines(by_class):
            lines.writerow(("prototypes", run["label"], "", "", measure, of, value))
        for each in by_class["classes"]:
            for key in ("images", "accuracy"):
                if each[key] is not None:
                    cells = ("classes", run["label"], "", "", key, each["name"], each[key])
                    lines.writerow(cells)
    return text.getvalue()


def _cosines(by_class):
    """(measure, of what, value) of the cosines between prototypes, of many classes in short."""
    names = by_class["names"]
    for place, cosines in enumerate(by_class["cosines"] or ()):
        # A matrix is symmetric.
        for other, value in zip(names[:place], cosines, strict=False):
            if value is not None:
                yield "cosine", f"{other} | {names[place]}", value
    if by_class["cosines"] is None:
        for key in ("mean", "std"):
            if key in by_class:
                yield f"cosine_{key}", "", by_class[key]
        for key in ("nearest", "furthest"):
            for first, second, value in by_class.get(key, ()):
                yield f"cosine_{key}", f"{first} | {second}", value


def _points(curves):
    found = curves["evaluations"]
    for split in ("train", "test"):
        for key, values in found[split].items():
            for step, value in zip(found["steps"], values, strict=True):
                if value is not None:
                    yield step, split, key, value
    for key, values in curves["batches"].items():
        if key != "steps":
            for step, value in zip(curves["batches"]["steps"], values, strict=True):
                if value is not None:
                    yield step, "batches", key, value


def sphere_csv(told):
    """Points on the sphere: a line for each image and each prototype at each step shown."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    head = ("run", "step", "what", "row", "class", "predicted", "x", "y", "z", "length")
    lines.writerow((*head, "cosine_true", "cosine_predicted"))
    for run in told["runs"]:
        if not run["sphere"]:
            continue
        found = _plain(run["sphere"])
        names = found["class_names"]
        for s, step in enumerate(found["steps"]):
            for p, label in enumerate(found["labels"]):
                cells = (run["label"], step, "image", found["rows"][p], names[label])
                cells += (names[found["predicted"][s][p]], *found["points"][s][p])
                length = round(found["lengths"][s][p] * found["length_unit"], 4)
                cells += (length, found["cosine_true"][s][p], found["cosine_predicted"][s][p])
                lines.writerow(cells)
            for c, label in enumerate(found["classes"]):
                cells = (run["label"], step, "prototype", "", names[label], "")
                length = round(found["prototype_lengths"][s][c] * found["prototype_unit"], 4)
                lines.writerow((*cells, *found["prototypes"][s][c], length, "", ""))
    return text.getvalue()
