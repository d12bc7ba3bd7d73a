"""The page of runs: OUT/index.html, one file that needs nothing else, and its data beside.

What `hsproto.report` found, to look at in a browser: the table of methods, features and prototypes
on the sphere over training, curves, classes, images, and how each run was made. The file opens from
a disk or a static host and asks for nothing from the network, which its Content-Security-Policy
forbids. plotly.js, which draws the charts, stands in it (`vendor/`).

data.json has what the page shows but for images, data.csv its tables and curves with a line for
each value, and sphere.csv the points of the sphere. Of the cosines between the prototypes of many
classes (`classes.MOST_ROWS`) the data have mean, std and the nearest and furthest pairs; the
run's prototypes.npz gives the rest. The whole confusion is in a run's predictions.npz.
"""

import base64
import hashlib
import importlib.resources
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from hsproto.errors import UserError
from hsproto.metrics import CONVERGENCE, METRICS, PAGE_COLUMNS, Metric, format_number
from hsproto.reporting import convergence as convergence_lib
from hsproto.reporting import naming
from hsproto.reporting.page import classes as page_classes
from hsproto.reporting.page import methods as page_methods
from hsproto.reporting.page import runs as page_runs
from hsproto.reporting.page import sphere as page_sphere
from hsproto.reporting.page import thumbnails, verdicts
from hsproto.reporting.page.confusion import confusion_view
from hsproto.reporting.page.sphere import Packed
from hsproto.runs import predictions_file
from hsproto.runs import run as run_lib
from hsproto.runs import summary as summary_lib
from hsproto.runs.files import csv_text, to_json, write_text
from hsproto.runs.run import Run

# In the order in which they run.
SCRIPTS = (
    "common.js",
    "table.js",
    "panels.js",
    "points.js",
    "plane.js",
    "sphere.js",
    "dynamics.js",
)
LIBRARY = "plotly-gl3d.min.js"


@dataclass(frozen=True, kw_only=True)
class RunView:
    """What the page shows of a run; see the functions that `collect` calls for each part."""

    id: str
    label: str
    name: str
    data: str
    loss: str
    loss_name: str
    verdict: list[str]
    classes: int | None
    finished: bool
    reached: int | None
    total: int
    broken_lines: int
    facts: list[tuple[str, str]]
    look: dict[str, str]
    optimum: dict[str, float | None]
    curves: dict[str, dict]
    converged: dict[str, dict]
    sphere: dict[str, Any] | None
    by_class: dict[str, Any]
    confusion: dict[str, Any] | None
    images: dict[str, list[dict]]
    last_snapshot: int | None
    card: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PageData:
    """All that the page shows, in the order of data.json; large arrays are `Packed`.

    Attributes:
        runs: The runs.
        sprites: Thumbnails of test images, see `thumbnails.sprites`; `sphere["sprite"]` of a run is
            the key of its own.
        summary: Texts that say what was run.
        methods: The table of methods.
        heads: Its columns before the values: those in which rows differ.
        no_simplex: Whether a run has too few dimensions for the simplex of its classes.
        note: What the names of rows leave out.
        measures: The metrics whose curves are shown.
    """

    runs: list[RunView]
    sprites: dict[str, dict[str, Any]]
    summary: list[str]
    methods: list[page_methods.Row]
    heads: list[str]
    no_simplex: bool
    note: str
    measures: list[dict[str, Any]]


def write(
    runs: Sequence[Run], out: str, measures: Mapping[str, Metric], remarks: Sequence[str] = ()
) -> list[str]:
    """Write the page of runs into the folder `out` and return the paths of its files.

    Args:
        runs: No two have the same settings and seed (`grouping.drop_duplicates`).
        out: An existing folder.
        measures: The metrics whose curves are shown, in order.
        remarks: Lines to show above.
    """
    data = collect(runs, measures)
    texts = {
        "index.html": render(data, remarks),
        "data.json": to_json(_unpack(data, Packed.plain)),
        "data.csv": values_csv(data),
        "sphere.csv": sphere_csv(data),
    }
    paths = []
    for name, text in texts.items():
        paths.append(os.path.join(out, name))
        write_text(paths[-1], text)
    return paths


def collect(runs: Sequence[Run], measures: Mapping[str, Metric]) -> PageData:
    """Return all that the page shows of runs."""
    labels, styles = naming.run_labels(runs), page_runs.line_styles(runs)
    most_steps = page_sphere.steps_of_each(
        sum(page_sphere.has_snapshots(run.workdir) for run in runs)
    )
    views, all_frames, predictions = [], [], {}
    for number, run in enumerate(runs):
        frames = page_sphere.frames(run.workdir, most_steps)
        if frames:
            all_frames.append(frames)
        seen = frames and thumbnails.has_pictures(frames)
        wrong, right = page_sphere.images(frames) if seen else ([], [])
        predicted, remark = _predictions(run)
        predictions[run.workdir] = predicted
        by_class = page_classes.class_view(run, frames, predicted)
        by_class["missing"] = [remark] * bool(remark) + by_class["missing"]
        names = by_class["all_names"]
        views.append(
            RunView(
                id=f"run{number}",
                label=labels[run.workdir],
                name=run.name,
                data=run_lib.data_set(run),
                loss=run.config["loss"],
                loss_name=naming.loss_name(run.config["loss"]),
                verdict=verdicts.verdict_of(run, predicted),
                classes=run.config.get("num_classes"),
                finished=run.summary is not None,
                reached=run_lib.last_step(run),
                total=run_lib.total_steps(run),
                broken_lines=run.broken_lines,
                facts=page_runs.facts(run),
                look=styles[run.workdir],
                optimum=summary_lib.optimum(run),
                curves=page_runs.curves(run, measures),
                converged=convergence_lib.to_collapse(run),
                sphere=_sphere(run, frames) if frames else None,
                by_class=by_class,
                confusion=confusion_view(predicted, names) if predicted and names else None,
                images={"wrong": wrong, "right": right},
                last_snapshot=frames.steps[-1]["step"] if frames else None,
                card=page_runs.card(run),
            )
        )
    methods = page_methods.methods(runs, predictions)
    several_sets = len({row.data for row in methods}) > 1
    several_seeds = any(row.seeds > 1 for row in methods)
    meanings = {key: metric.meaning for key, metric in measures.items()} | page_runs.OF_BATCHES
    return PageData(
        runs=views,
        sprites=thumbnails.sprites(all_frames),
        summary=page_runs.summary(runs),
        methods=methods,
        heads=["method", *["data"] * several_sets, *["seeds"] * several_seeds],
        no_simplex=not all(summary_lib.has_simplex(run) for run in runs),
        note=naming.row_names(runs).note,
        measures=[
            {
                "key": key,
                "meaning": meaning,
                "log": key in page_runs.LOG_SCALE,
                "of_batches": key in page_runs.OF_BATCHES,
            }
            for key, meaning in meanings.items()
        ],
    )


def _predictions(run):
    """(predictions on the test set or None, why there are none or an empty text)."""
    if run.summary is None:
        return None, ""
    try:
        found = predictions_file.read(run.workdir, run.summary["step"], run.config["num_classes"])
    except UserError as error:
        return None, f"No confusion matrix: {error}."
    missing = (
        "No accuracy by class and no confusion matrix of the whole test set: the run has no "
        f"{predictions_file.NAME}, which `hsproto evaluate` adds to runs of earlier versions."
    )
    return found, "" if found else missing


def _sphere(run, frames):
    found = page_sphere.view(frames, run.config["num_classes"])
    return found | {"sprite": thumbnails.sprite_id(frames)}


# Of a run, what the scripts need.
_IN_SCRIPTS = ("id", "label", "data", "loss", "classes", "finished", "reached", "total", "look")
_IN_SCRIPTS += ("optimum", "curves", "sphere", "converged")


def render(data: PageData, remarks: Sequence[str] = ()) -> str:
    """Return the text of index.html."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hsproto.reporting.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "cosine": lambda value: _number(value, 2)}
    environment.filters["minus"] = _minus
    runs = [{key: getattr(run, key) for key in _IN_SCRIPTS} for run in data.runs]
    # `<`, `>`, `&` and quotes in text from outside must not end the element it stands in.
    content = jinja2.utils.htmlsafe_json_dumps(
        {
            "runs": _unpack(runs, Packed.for_page),
            "measures": data.measures,
            "sprites": data.sprites,
        },
        dumps=to_json,
        separators=(",", ":"),
    )
    library = _asset("vendor", LIBRARY)
    script = "\n".join(_asset("templates", name) for name in SCRIPTS)
    return environment.get_template("page.html").render(
        page=data,
        remarks=remarks,
        columns={key: METRICS[key].title for key in PAGE_COLUMNS},
        convergence=CONVERGENCE,
        data=content,
        # Code of this package, which needs no escaping.
        style=Markup(_asset("templates", "page.css")),
        library=Markup(library),
        script=Markup(script),
        allowed=" ".join(f"'sha256-{_hash(text)}'" for text in (library, script)),
    )


def _asset(folder, name):
    package = importlib.resources.files("hsproto.reporting.page")
    text = package.joinpath(folder, name).read_text("utf-8")
    if "</script" in text.lower():
        raise ValueError(f"{name} would end the element that holds it")
    return text


def _hash(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _number(value, digits=None):
    return "–" if value is None else _minus(format_number(value, digits))


def _minus(text):
    """A number's text with a minus as wide as a plus."""
    return f"−{text[1:]}" if text.startswith("-") else text


# Images, which data.json and the scripts do without.
_IMAGES = ("png", "picture", "matrix")


def _unpack(value, unpack):
    """The same as dicts and lists, with each `Packed` as `unpack` has it and without images."""
    if isinstance(value, Packed):
        return unpack(value)
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _unpack(each, unpack) for key, each in value.items() if key not in _IMAGES}
    if isinstance(value, list | tuple):
        return [_unpack(each, unpack) for each in value]
    return value


def values_csv(data: PageData) -> str:
    """Return tables and curves as CSV, one line per value that is defined."""
    columns = ("part", "run", "step", "split", "measure", "of", "value")
    return csv_text(columns, (row for row in _values(data) if row[-1] is not None))


def _values(data):
    for row in data.methods:
        name = f"{row.data}, {row.name}" + (f", {row.note}" if row.note else "")
        for (key, split), cell in zip(PAGE_COLUMNS.items(), row.cells, strict=True):
            yield "methods", name, "", split, key, cell.text, cell.value
    for run in data.runs:
        for step, split, key, value in _points(run.curves):
            yield "dynamics", run.label, step, split, key, "", value
        for key, result in run.converged.items():
            of = "share of training in %"
            yield "convergence", run.label, result["step"], "train", key, of, result["share"]
        for measure, of, value in _cosines(run.by_class):
            yield "prototypes", run.label, "", "", measure, of, value
        for each in run.by_class["classes"]:
            for key in ("images", "accuracy"):
                yield "classes", run.label, "", "", key, each["name"], each[key]
        for own, taken, images, _ in (run.confusion or {}).get("pairs", ()):
            yield "confusion", run.label, "", "test", "images", f"{own} | {taken}", images


def _cosines(by_class):
    """(measure, of what, value) of the cosines between prototypes; of many classes a summary."""
    names = by_class["names"]
    for place, cosines in enumerate(by_class["cosines"] or ()):
        # A matrix is symmetric.
        for other, value in zip(names[:place], cosines, strict=False):
            yield "cosine", f"{other} | {names[place]}", value
    if by_class["cosines"] is None:
        for key in ("mean", "std"):
            yield f"cosine_{key}", "", by_class.get(key)
        for key in ("nearest", "furthest"):
            for first, second, value in by_class.get(key, ()):
                yield f"cosine_{key}", f"{first} | {second}", value


def _points(curves):
    evaluations, batches = curves["evaluations"], dict(curves["batches"])
    for split in ("train", "test"):
        for key, values in evaluations[split].items():
            for step, value in zip(evaluations["steps"], values, strict=True):
                yield step, split, key, value
    steps = batches.pop("steps")
    for key, values in batches.items():
        for step, value in zip(steps, values, strict=True):
            yield step, "batches", key, value


def sphere_csv(data: PageData) -> str:
    """Return the points on the sphere as CSV, one line per image and prototype at each step."""
    columns = ("run", "step", "what", "row", "class", "predicted", "x", "y", "z", "length")
    columns += ("cosine_true", "cosine_predicted")
    return csv_text(columns, (row for run in data.runs if run.sphere for row in _places(run)))


def _places(run):
    sphere = _unpack(run.sphere, Packed.plain)
    names = sphere["class_names"]
    for s, step in enumerate(sphere["steps"]):
        for p, label in enumerate(sphere["labels"]):
            predicted, length = names[sphere["predicted"][s][p]], sphere["lengths"][s][p]
            yield (
                *(run.label, step, "image", sphere["rows"][p], names[label], predicted),
                *(*sphere["points"][s][p], round(length * sphere["length_unit"], 4)),
                *(sphere["cosine_true"][s][p], sphere["cosine_predicted"][s][p]),
            )
        for c, label in enumerate(sphere["classes"]):
            length = round(sphere["prototype_lengths"][s][c] * sphere["prototype_unit"], 4)
            place = sphere["prototypes"][s][c]
            yield run.label, step, "prototype", "", names[label], "", *place, length, "", ""
