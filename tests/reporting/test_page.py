"""The page of runs as a file: its content, its size, and that no text from outside is trusted."""

import base64
import configparser
import csv
import html.parser
import io
import json
import re
import shutil
import subprocess

import made_pages
import made_runs
import numpy as np
import pytest
from PIL import Image
from small_runs import ROOT

from hsproto import metrics as metrics_lib
from hsproto import report
from hsproto.cli import load_config
from hsproto.reporting import grouping, left_out
from hsproto.reporting.figures import runs as run_figures
from hsproto.reporting.page import classes as page_classes
from hsproto.reporting.page import page, shades
from hsproto.reporting.page import runs as page_runs
from hsproto.reporting.page import sphere as page_sphere

MEASURES = {
    name: metrics_lib.METRICS[name]
    for name in ("accuracy", "weight_alignment", "nc1", "erank_weights", "mir_gap")
}


class Parsed(html.parser.HTMLParser):
    """All tags with their attributes, and the text that a reader sees."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, content):
        if self._inside not in ("script", "style"):
            self.texts.append(content)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def written(folder, out, remarks=()):
    """(text of index.html, content of data.json, lines of data.csv) of the runs in a folder."""
    out.mkdir(exist_ok=True)
    kept, _ = grouping.drop_duplicates(made_runs.read(folder))
    page.write(kept, out, MEASURES, remarks)
    data = json.loads((out / "data.json").read_text())
    lines = list(csv.DictReader(io.StringIO((out / "data.csv").read_text())))
    return (out / "index.html").read_text(), data, lines


def cells(data, name, key):
    (row,) = (row for row in data["methods"] if row["name"] == name)
    return row["cells"][list(metrics_lib.PAGE_COLUMNS).index(key)]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What is written of CE with three seeds and NONL, and of a run that is not finished."""
    folder = tmp_path_factory.mktemp("page")
    for seed in range(3):
        made_pages.run(
            folder / "runs", f"ce{seed}", loss="cross_entropy", seed=seed, goal=0.1 + 0.01 * seed
        )
    made_pages.run(folder / "runs", "nonl", loss="nonl", goal=0.005)
    made_pages.run(
        folder / "runs", "ntce", loss="ntce", steps=(20, 40), finished=False, snapshots=False
    )
    with (folder / "runs" / "ntce" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 45, "loss"\n{"step": 50, "lo')
    return written(folder / "runs", folder / "out", remarks=["One run <b>twice</b>."])


def test_the_page_is_one_file_that_asks_for_nothing(shown):
    text, _, _ = shown
    tags = Parsed(text).tags
    assert not [tag for tag, _ in tags if tag in ("iframe", "object", "embed", "base", "form")]
    for tag, attributes in tags:
        for key in ("src", "href", "action", "srcset", "poster"):
            value = attributes.get(key, "#")
            assert value.startswith(("#", "data:")) or value in (
                "data.json", "data.csv", "sphere.csv",
            ), (tag, value)  # fmt: skip
        assert not [key for key in attributes if key.startswith("on")], tag
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_only_the_scripts_that_belong_to_the_page_may_run(shown):
    text, _, _ = shown
    policy = next(a["content"] for t, a in Parsed(text).tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.partition("style-src")[0] and "unsafe-eval" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        assert f"'sha256-{page._hash(script)}'" in policy


def test_the_table_of_methods_averages_seeds_and_marks_what_is_better(shown):
    text, data, lines = shown
    ce, nonl = (cells(data, name, "weight_alignment") for name in ("CE", "NONL"))
    values = [0.1, 0.11, 0.12]
    assert ce["value"] == pytest.approx(np.mean(values))
    assert ce["text"] == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
    assert (nonl["mark"], nonl["best"], ce["mark"], ce["best"]) == ("better", True, "", False)
    assert nonl["target"] == "0" and ce["bar"] < nonl["bar"] < 1
    assert "better than CE" in Parsed(text).text and "▲" in text and "★" in text
    assert [
        float(line["value"]) for line in lines
        if line["part"] == "methods" and line["measure"] == "weight_alignment"
    ] == [pytest.approx(v) for v in (0.11, 0.01, 0.005)]  # fmt: skip


def test_what_is_undefined_is_a_dash(shown):
    text, data, _ = shown
    found = cells(data, "NONL", "mir_gap")
    assert (found["text"], found["value"], found["bar"], found["mark"]) == ("–", None, None, "")
    assert "mir_gap" not in data["runs"][0]["curves"]["evaluations"]["train"]


def test_an_unfinished_run_shows_what_it_has_and_says_so(shown):
    text, data, _ = shown
    seen = Parsed(text).text
    assert "NTCE is not finished (step 40 of " in seen
    assert "2 lines of its metrics.jsonl cannot be read and are left out" in seen
    assert "Without snapshots" in seen and "This run has no snapshots" in seen
    (run,) = (run for run in data["runs"] if not run["finished"])
    assert run["curves"]["evaluations"]["steps"] == [20, 40] and run["converged"] == {}
    assert "No prototypes yet" in seen
    (row,) = (row for row in data["methods"] if row["note"])
    assert row["note"] == "not finished, step 40" and not any(c["best"] for c in row["cells"])


def test_remarks_are_shown_as_text(shown):
    assert "One run <b>twice</b>." in Parsed(shown[0]).text


def test_the_data_beside_are_those_of_the_page(shown):
    text, data, lines = shown
    inside = json.loads(re.search(r'id="data">(.*?)</script>', text, flags=re.DOTALL)[1])
    assert [run["curves"] for run in inside["runs"]] == [run["curves"] for run in data["runs"]]
    packed, plain = inside["runs"][0]["sphere"], data["runs"][0]["sphere"]
    points = np.frombuffer(base64.b64decode(packed["points"]["b64"]), "<i2")
    points = points.reshape(packed["points"]["shape"]) * packed["points"]["scale"]
    np.testing.assert_allclose(points, plain["points"], atol=1e-4)
    assert np.allclose(np.linalg.norm(points, axis=-1), 1, atol=1e-3)
    curve = data["runs"][0]["curves"]["evaluations"]
    label = data["runs"][0]["label"]
    assert [float(line["value"]) for line in lines if (
        line["part"], line["run"], line["split"], line["measure"]
    ) == ("dynamics", label, "train", "nc1")] == curve["train"]["nc1"]  # fmt: skip


def test_texts_from_outside_are_never_markup(tmp_path):
    names = [made_pages.HOSTILE, "]]>", "<!--", "${1+1}"]
    hostile = made_pages.HOSTILE.replace("/", "|")
    made_pages.run(tmp_path / "runs", hostile, names=names, dataset=made_pages.HOSTILE)
    made_pages.run(tmp_path / "runs", "same", names=names, dataset=made_pages.HOSTILE, loss="scl")
    remarks = left_out.remarks({"<script>": "<script>"})
    text, data, _ = written(tmp_path / "runs", tmp_path / "out", remarks=remarks)
    plain, _, _ = written(
        made_pages.run(tmp_path / "plain", "run").parent, tmp_path / "out", remarks=[]
    )
    tags = Parsed(text).tags
    assert [tag for tag, _ in tags].count("script") == 3
    assert not [a for t, a in tags if t == "img" and not a["src"].startswith("data:image/png")]
    assert not [a for _, a in tags if "onerror" in a]
    assert made_pages.HOSTILE in "".join(Parsed(text).texts)
    assert data["runs"][0]["sphere"]["class_names"] == names
    assert [t for t, _ in Parsed(plain).tags].count("script") == 3


def test_ten_runs_of_300_points_stay_below_5_mb(tmp_path):
    for seed in range(10):
        made_pages.run(
            tmp_path / "runs", f"run{seed}", steps=range(10, 460, 10), classes=10, points=300,
            side=64, dim=16, seed=seed, wrong=20,
        )  # fmt: skip
    text, data, _ = written(tmp_path / "runs", tmp_path / "out")
    assert len(text) < 5e6
    for run in data["runs"]:
        steps = run["sphere"]["steps"]
        assert len(steps) == page_sphere.MOST_STEPS and (steps[0], steps[-1]) == (10, 450)
        assert not run["sphere"]["exact"] and 0 < run["sphere"]["share_means"] <= 1


def test_many_runs_share_the_steps_that_a_page_has_room_for():
    assert [page_sphere.steps_of_each(n) for n in (0, 1, 10, 20, 1000)] == [32, 32, 32, 16, 6]


def test_cosines_are_told_against_the_simplex(tmp_path):
    made_pages.run(tmp_path, "run", classes=4, dim=3)
    (run,) = made_runs.read(tmp_path)
    simplex = np.eye(4) - 0.25
    np.savez(
        tmp_path / "run" / "prototypes.npz", prototypes=simplex, class_means=simplex,
        class_names=list("abcd"),
    )  # fmt: skip
    found = page_classes.class_view(run, None)
    assert found["target"] == pytest.approx(-1 / 3) and found["mean"] == pytest.approx(-1 / 3)
    assert found["matrix"][0] == [("", 0, "own")] + [("+0.000", 0, "below")] * 3
    deviations = np.array([[np.nan, 0.03], [-0.03, np.nan]])
    assert page_classes.reach_of(deviations) == 0.05
    assert page_classes._cells(deviations, 0.05)[1][0] == ("-0.030", 60, "below")


def test_a_prototype_without_direction_has_no_cosine(tmp_path):
    made_pages.run(tmp_path, "run")
    rows_ = np.eye(4)
    rows_[1] = 0
    np.savez(
        tmp_path / "run" / "prototypes.npz", prototypes=rows_, class_means=rows_,
        class_names=list("abcd"),
    )  # fmt: skip
    found = page_classes.class_view(made_runs.read(tmp_path)[0], None)
    assert found["matrix"][1][0][0] == "–" and found["cosines"][1] == [None] * 4
    assert found["classes"][1]["nearest"] is None
    assert all("b" not in pair[:2] for pair in found["nearest"] + found["furthest"])


def test_matrices_of_many_classes_are_pictures(tmp_path):
    made_pages.run(tmp_path, "run", classes=30, dim=40)
    found = page_classes.class_view(made_runs.read(tmp_path)[0], None)
    assert found["matrix"] is None and found["picture"].startswith("data:image/png;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(found["picture"].partition(",")[2])))
    assert image.size == (30, 30)
    # The diagonal and what is at the target let the page show through.
    pixels = np.asarray(image.convert("RGBA"))
    assert pixels[3, 3, 3] == 0 < pixels[3, 4, 3]
    full = np.asarray(page_classes.picture(np.full((30, 30), 0.2), 0.2).convert("RGBA"))
    assert tuple(full[0, 0]) == (*shades.POSITIVE, 255)
    assert page_classes.picture(np.eye(1000), 0.2).size == (page_classes.MOST_ROWS,) * 2


@pytest.mark.parametrize("more", [0, 1])
def test_cosines_of_many_classes_are_told_in_short(tmp_path, more, monkeypatch):
    monkeypatch.setattr(page_classes, "MOST_ROWS", 30)
    made_pages.run(tmp_path / "runs", "run", classes=30 + more, dim=40, snapshots=False)
    text, data, lines = written(tmp_path / "runs", tmp_path / "out")
    assert '<img class="matrix"' in text, "the page shows all of them"
    found = data["runs"][0]["by_class"]
    told = [line["measure"] for line in lines if line["part"] == "prototypes"]
    if more:
        assert found["cosines"] is None and len(found["nearest"]) == page_classes.PAIRS
        pairs = ["cosine_nearest"] * page_classes.PAIRS + ["cosine_furthest"] * page_classes.PAIRS
        assert told == ["cosine_mean", "cosine_std", *pairs]
    else:
        assert len(found["cosines"]) == 30 and told == ["cosine"] * (30 * 29 // 2)


def test_a_missing_prototypes_file_is_told(tmp_path):
    made_pages.run(tmp_path / "runs", "run")
    (tmp_path / "runs" / "run" / "prototypes.npz").unlink()
    text, _, _ = written(tmp_path / "runs", tmp_path / "out")
    assert (
        "no prototypes.npz" in Parsed(text).text and "the snapshot of step 100" in Parsed(text).text
    )


def test_classes_of_a_long_tail_have_their_counts_and_accuracies(tmp_path):
    workdir = made_pages.run(tmp_path / "runs", "run", imbalance_factor=0.1)
    summary = json.loads((workdir / "summary.json").read_text())
    summary["per_class"] = {"train_images": [50, 23, 10, 5], "test_accuracy": [0.9, 0.5, None, 0.1]}
    (workdir / "summary.json").write_text(json.dumps(summary))
    _, data, lines = written(tmp_path / "runs", tmp_path / "out")
    found = data["runs"][0]["by_class"]["classes"]
    assert [of["images"] for of in found] == [50, 23, 10, 5]
    assert [of["accuracy"] for of in found] == [0.9, 0.5, None, 0.1]
    told = [line["value"] for line in lines if line["part"] == "classes"]
    assert told == ["50", "0.9", "23", "0.5", "10", "5", "0.1"]


def test_the_most_wrong_images_come_first(tmp_path):
    made_pages.run(tmp_path, "run", wrong=6)
    found = page_sphere.frames(str(tmp_path / "run"), 40)
    wrong, right = page_sphere.images(found)
    assert len(wrong) == 6 and len(right) == page_sphere.SHOWN_IMAGES
    margins = [image["cosine_predicted"] - image["cosine_true"] for image in wrong]
    assert margins == sorted(margins, reverse=True)
    assert all(i["true"] != i["predicted"] for i in wrong) and all(i["right"] for i in right)
    # As many classes as there are, of each as many images.
    assert sorted(i["true"] for i in right) == sorted(2 * [f"class {c}" for c in range(4)])
    first = Image.open(io.BytesIO(base64.b64decode(right[0]["png"].partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(first), found.points["images"][right[0]["row"]])


def test_no_bar_where_the_dimensions_are_too_few_for_a_simplex(tmp_path):
    made_pages.run(tmp_path / "runs", "run", classes=10, dim=3)
    text, data, _ = written(tmp_path / "runs", tmp_path / "out")
    row = dict(zip(metrics_lib.PAGE_COLUMNS, data["methods"][0]["cells"], strict=True))
    assert row["erank_weights"]["bar"] is None and row["weight_alignment"]["bar"] is not None
    assert "too few dimensions" in Parsed(text).text


def test_the_recipe_on_the_card_gives_the_run_s_config(tmp_path):
    made_pages.run(tmp_path, "run", dataset='it\'s "a" set', decay_epochs=(60.0, 80.0))
    (run,) = made_runs.read(tmp_path)
    path = tmp_path / "recipe.py"
    path.write_text(page_runs.card(run)["recipe"])
    found = load_config(str(path)).to_dict()
    assert json.loads(json.dumps(found)) == run.config


def test_curves_leave_out_what_is_no_number(tmp_path):
    records = [made_pages.evaluated(10, nc1=0.5), made_pages.evaluated(20, nc1="many")]
    records += [{"step": "x", "train/nc1": 1.0}, made_pages.evaluated(30, nc1=float("nan"))]
    made_runs.write(tmp_path, "run", records=records, finished=False)
    found = page_runs.curves(made_runs.read(tmp_path)[0], MEASURES)["evaluations"]
    assert (found["steps"], found["train"]) == ([10, 20, 30], {"nc1": [0.5, None, None]})


def test_an_empty_run_has_a_page_too(tmp_path):
    made_runs.write(tmp_path / "runs", "run", finished=False)
    text, data, _ = written(tmp_path / "runs", tmp_path / "out")
    assert "no step yet" in Parsed(text).text and len(data["runs"]) == 1


def test_templates_and_the_library_are_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["hsproto.reporting.page"].split()
    needed = [f"templates/{name}" for name in ("page.html", "page.css", *page.SCRIPTS)]
    needed += [f"vendor/{name}" for name in (page.LIBRARY, "README.md", "plotly-LICENSE")]
    matched = {
        str(path.relative_to(ROOT / "hsproto/reporting/page"))
        for pattern in patterns
        for path in (ROOT / "hsproto/reporting/page").glob(pattern)
    }
    assert set(needed) <= matched
    assert "jinja2>=3.1" in (ROOT / "requirements.txt").read_text().splitlines()


def test_the_library_is_the_version_that_is_noted():
    noted = (ROOT / "hsproto/reporting/page/vendor/README.md").read_text()
    version = re.search(r"plotly\.js-gl3d-dist-min \| ([\d.]+) \| MIT", noted)[1]
    head = (ROOT / "hsproto/reporting/page/vendor" / page.LIBRARY).read_text("utf-8")[:300]
    assert f"v{version}\n" in head and "MIT license" in head


@pytest.mark.skipif(not shutil.which("node"), reason="no node to read JavaScript with")
def test_scripts_are_javascript():
    for name in page.SCRIPTS:
        path = ROOT / "hsproto/reporting/page/templates" / name
        assert subprocess.run(["node", "--check", path], timeout=60).returncode == 0, name


def test_a_report_has_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_figures, "write_all", lambda runs, out: [])
    monkeypatch.setattr(run_figures, "write_figures", lambda workdir, out, svg: [])
    made_pages.run(tmp_path / "runs", "first")
    made_pages.run(tmp_path / "runs", "second")
    assert report.main([str(tmp_path / "runs"), f"--out={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out" / "index.html")
    text = Parsed((tmp_path / "out" / "index.html").read_text()).text
    assert "1 run on the way" in text and "another run's: second" in text
