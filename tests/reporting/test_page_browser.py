"""The page of runs in a real browser: what a reader does with it, and what it must never do.

Pictures of it are written to the folder HSPROTO_SCREENSHOTS, or else to pytest's own.
"""

import functools
import http.server
import os
import pathlib
import shutil
import threading
import time

import made_pages
import made_runs
import pytest

from hsproto.metrics import METRICS
from hsproto.reporting import grouping
from hsproto.reporting.page import page

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# WebGL without a GPU; the sandbox needs rights that containers lack.
FLAGS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
MEASURES = {name: METRICS[name] for name in ("accuracy", "weight_alignment", "erank_weights")}
SECTIONS = ("overview", "sphere", "table", "dynamics", "prototypes", "confusion", "images", "card")
SIZES = ((390, 844), (1400, 900))
WAIT = 60_000  # milliseconds; a busy machine draws slowly


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser installed ({', '.join(BROWSERS)})")
    with playwright.sync_playwright() as driver:
        try:
            opened = driver.chromium.launch(executable_path=path, args=FLAGS)
        except playwright.Error as error:
            pytest.skip(f"{path} does not start: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page of CE, NONL, a run of many hostile names in 16 dimensions, and an unfinished one."""
    place = tmp_path_factory.mktemp("browser")
    made_pages.run(place / "runs", "ce", loss="cross_entropy", goal=0.1)
    made_pages.run(place / "runs", "nonl", loss="nonl", steps=(10, 50, 100), goal=0.001)
    names = [made_pages.HOSTILE, "<a href='javascript:window.hurt=1'>x</a>"]
    names += [f"kind {c}" for c in range(22)]
    made_pages.run(
        place / "runs", "many", loss="ntce", classes=24, dim=30, points=72, names=names,
        dataset="<img src=x onerror=window.hurt=1>", steps=(50, 100),
    )  # fmt: skip
    made_pages.run(
        place / "runs", "young", loss="normface", steps=(20, 40), finished=False, snapshots=False
    )
    kept, _ = grouping.drop_duplicates(made_runs.read(place / "runs"))
    page.write(kept, place, MEASURES)
    return place


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    wanted = os.environ.get("HSPROTO_SCREENSHOTS")
    place = pathlib.Path(wanted) if wanted else tmp_path_factory.mktemp("screenshots")
    place.mkdir(parents=True, exist_ok=True)
    return place


class Seen:
    """What a page said and asked for while it was open."""

    def __init__(self, opened):
        self.requests, self.errors = [], []
        opened.on("request", lambda request: self.requests.append(request.url))
        opened.on("pageerror", lambda error: self.errors.append(str(error)))
        opened.on(
            "console",
            lambda said: said.type == "error" and self.errors.append(said.text),
        )


def open_page(browser, url, size=SIZES[1], **kwargs):
    opened = browser.new_context(
        viewport=dict(zip(("width", "height"), size, strict=True)), **kwargs
    )
    tab = opened.new_page()
    tab.set_default_timeout(WAIT)
    seen = Seen(tab)
    tab.goto(url)
    tab.wait_for_selector("html[data-drawn]")
    return tab, seen


@pytest.fixture(scope="module")
def opened(browser, folder):
    """(tab, what it said, address) of the page on a server of this machine, shared by the tests.

    They leave it as they found it.
    """
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/index.html"
        tab, seen = open_page(browser, url, (1000, 800))
        yield tab, seen, url
        tab.context.close()
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def tab(opened):
    return opened[0]


def chosen(tab, selector, value):
    """Selects an option by its text and lets the charts follow."""
    tab.locator(selector).select_option(label=value)
    settled(tab)


def settled(tab):
    tab.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def eventually(tab, expression):
    """Waits for JavaScript to be true; playwright's own waiting is `eval`, which it forbids."""
    deadline = time.monotonic() + WAIT / 1000
    while not tab.evaluate(expression):
        assert time.monotonic() < deadline, expression
        tab.wait_for_timeout(50)


def told(side, words):
    return f"document.querySelector('[data-told={side}]').textContent.includes('{words}')"


def chart(tab, selector, expression):
    """What JavaScript's `expression` makes of the chart `c`, as plotly holds it."""
    return tab.locator(selector).evaluate(f"c => {expression}")


def first_column(tab):
    return tab.locator("#methods tbody tr:not([hidden]) th").all_inner_texts()


def outside(seen):
    return [url for url in seen.requests if not url.startswith(("data:", "blob:"))]


@pytest.mark.slow
def test_from_a_server_it_asks_for_itself_alone_and_has_no_errors(opened):
    tab, seen, url = opened
    assert seen.errors == [] and outside(seen) == [url]
    assert chart(tab, "[data-ball=left]", "c.data.length") == 4
    assert chart(tab, "#curves", "c.data.length") >= 3


def test_its_policy_forbids_the_network_and_other_scripts(opened):
    tab, seen, _ = opened
    before = len(seen.errors)
    assert tab.evaluate("fetch('data.json').then(() => false, () => true)")
    tab.evaluate(
        """() => { const made = document.createElement('script');
        made.textContent = 'window.hurt = 2'; document.body.append(made); made.remove(); }"""
    )
    assert tab.evaluate("window.hurt === undefined")
    del seen.errors[before:]  # what was refused here


def test_no_text_from_outside_is_run_or_made_markup(tab):
    assert tab.evaluate("window.hurt === undefined")
    assert tab.locator("[onerror]").count() == 0
    assert tab.locator("#prototypes b", has_text="bold").count() == 0
    chosen(tab, "[data-side=left]", "<img src=x onerror=window.hurt=1>, NTCE")
    hover = chart(tab, "[data-ball=left]", "c.data[2].text[0]")
    assert hover.startswith("&lt;/script&gt;&lt;script&gt;") and "<b>" not in hover
    # Drawn as letters: no link and no bold part in what a chart has made of it.
    assert tab.locator("#sphere svg a, #sphere svg tspan[style*=bold]").count() == 0
    assert made_pages.HOSTILE in tab.locator("[data-legend=left]").text_content()
    assert tab.evaluate("window.hurt === undefined")
    chosen(tab, "[data-side=left]", "toy, CE")


def test_a_click_sorts_and_undefined_stands_last(tab):
    head = tab.locator("th", has=tab.locator("[data-key=weight_alignment]"))
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    column = head.evaluate("head => head.cellIndex")
    values = tab.locator("#methods tbody tr").evaluate_all(
        f"rows => rows.map(row => Number(row.cells[{column}].dataset.value))"
    )
    assert values == sorted(values)
    # By the keyboard, and the other way round.
    head.locator("button").focus()
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    tab.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "ascending"
    assert tab.locator("#methods [aria-sort=ascending]").count() == 1
    gap = tab.locator("th", has=tab.locator("[data-key=mir_gap]"))
    for _ in range(2):
        gap.locator("button").click()
        assert tab.locator("#methods tbody tr td:last-child").last.inner_text().strip() == "–"


def test_a_text_filters_the_table(tab):
    box = tab.locator("#filter")
    box.fill("toy nonl")
    assert [name.split("\n")[0] for name in first_column(tab)] == ["NONL"]
    assert tab.locator("#filtered").inner_text() == "1 of 4 rows"
    box.fill("nothing like it")
    assert first_column(tab) == []
    box.fill("")
    assert len(first_column(tab)) == 4


def test_the_slider_moves_both_spheres_through_training(tab):
    slider = tab.locator("#frame")
    ends = [chart(tab, f"[data-ball={side}]", "c.data[2].x") for side in ("left", "right")]
    slider.focus()
    tab.keyboard.press("Home")
    settled(tab)
    assert slider.input_value() == "0" and tab.locator("#moment").inner_text() == "step 10"
    # Of CE the first snapshot is later: it is shown as long as there is no earlier one.
    eventually(tab, told("left", "Step 20 of 100 (its first snapshot)"))
    eventually(tab, told("right", "Step 10 of 100:"))
    for side, end in zip(("left", "right"), ends, strict=True):
        assert chart(tab, f"[data-ball={side}]", "c.data[2].x") != end
    tab.keyboard.press("ArrowRight")
    assert slider.input_value() == "1"
    assert slider.get_attribute("aria-valuetext") == "step 20"
    eventually(tab, told("right", "Step 10 of 100 (its last snapshot so far)"))
    tab.keyboard.press("End")
    eventually(tab, told("right", "Step 100"))
    assert chart(tab, "[data-ball=right]", "c.data[2].x") == ends[1]


def test_play_goes_to_the_end_and_can_be_stopped(tab):
    play = tab.locator("#play")
    play.focus()
    tab.keyboard.press("Enter")
    assert play.get_attribute("aria-pressed") == "true" and play.inner_text() == "Pause"
    eventually(tab, "document.querySelector('#frame').value > 0")
    tab.keyboard.press("Enter")
    assert play.get_attribute("aria-pressed") == "false" and play.inner_text() == "Play"
    play.click()
    eventually(tab, "document.querySelector('#play').getAttribute('aria-pressed') == 'false'")
    assert tab.locator("#frame").input_value() == tab.locator("#frame").get_attribute("max")


def test_points_tell_class_prediction_and_cosine(tab):
    texts = chart(tab, "[data-ball=right]", "c.data[2].text")
    assert texts[0].startswith("class 0<br>cosine to its prototype ")
    assert "taken for class 0" in texts[-1] and "to that it is taken for" in texts[-1]
    marks = chart(tab, "[data-ball=right]", "c.data[2].marker.symbol")
    assert (marks[0], marks[-1]) == ("circle", "cross")
    assert chart(tab, "[data-ball=right]", "c.data[3].marker.symbol") == "diamond"
    assert (
        "Exact: the features have 3 dimensions"
        in tab.locator("[data-coordinates=right]").inner_text()
    )


def test_many_classes_stand_on_a_circle_where_collapse_is_seen(tab):
    pane = tab.locator("[data-pane=left]")
    assert "many" not in pane.get_attribute("class").split()
    chosen(tab, "[data-side=left]", "<img src=x onerror=window.hurt=1>, NTCE")
    eventually(tab, "document.querySelector('[data-plane=left]').data[1].x.length == 24")
    assert "many" in pane.get_attribute("class").split()
    tops = [tab.locator(f"[data-{name}=left]").bounding_box()["y"] for name in ("plane", "ball")]
    assert tops[0] < tops[1], "the circle comes first"
    far = chart(tab, "[data-plane=left]", "Math.max(...c.data[3].x.map((x, i) => "
                "Math.hypot(x - c.data[1].x[i], c.data[3].y[i] - c.data[1].y[i])))")  # fmt: skip
    assert far < 0.1, "orthogonal prototypes are nearly at their corners"
    assert "evenly in their order" in tab.locator("[data-plane-note=left]").inner_text()
    tab.locator("[data-plane-of=left]").select_option("map")
    assert "% of the variance" in tab.locator("[data-plane-note=left]").inner_text()
    chosen(tab, "[data-side=left]", "toy, CE")
    assert tab.locator("[data-plane-of=left]").input_value() == "map"


def test_a_point_in_the_plane_shows_its_image(tab):
    plane, thumb = tab.locator("[data-plane=right]"), tab.locator("[data-plane=right] + .thumb")
    plane.scroll_into_view_if_needed()
    assert thumb.is_hidden()
    x, y = chart(
        tab,
        "[data-plane=right]",
        """{ const { xaxis, yaxis, _size } = c._fullLayout;
        const box = c.getBoundingClientRect(), { x, y } = c.data[2];
        const far = x.map((_, i) => Math.hypot(x[i] - c.data[3].x[0], y[i] - c.data[3].y[0]));
        const i = far.indexOf(Math.max(...far));
        return [box.left + _size.l + xaxis.d2p(x[i]), box.top + _size.t + yaxis.d2p(y[i])] }""",
    )
    tab.mouse.move(x - 20, y - 20)
    for shift in (-3, -1, 0, 1, 2, 3):
        tab.mouse.move(x + shift, y + shift)
        tab.wait_for_timeout(60)
        if thumb.is_visible():
            break
    assert thumb.is_visible()
    assert "data:image/" in thumb.evaluate("e => e.style.backgroundImage")
    tab.mouse.move(0, 0)
    tab.mouse.move(1, 1)


def test_a_pointer_over_a_curve_shows_its_value(tab):
    tab.locator("#curves").scroll_into_view_if_needed()
    x, y = chart(
        tab, "#curves",
        """{ const { xaxis, yaxis, _size } = c._fullLayout, box = c.getBoundingClientRect();
        const { x, y } = c.data[0];
        return [box.left + _size.l + xaxis.d2p(x[1]), box.top + _size.t + yaxis.d2p(y[1])] }""",
    )  # fmt: skip
    tab.mouse.move(x - 3, y)
    tab.mouse.move(x, y)
    tab.wait_for_selector("#curves .hoverlayer .hovertext")
    assert "step 40" in tab.locator("#curves .hoverlayer").text_content()
    tab.mouse.move(0, 0)


def test_a_pointer_over_a_point_tells_of_it(tab):
    ball = tab.locator("[data-ball=right]")
    ball.scroll_into_view_if_needed()
    ball.evaluate("c => c.on('plotly_hover', e => (window.hovered = e.points[0].text))")
    # Of the images the one that is nearest to who looks, so that none stands before it.
    x, y = chart(tab, "[data-ball=right]", PLACE_OF_NEAREST)
    for shift in (-4, -1, 0, 1, 2):
        tab.mouse.move(x + shift, y)
        tab.wait_for_timeout(60)
    eventually(tab, "Boolean(window.hovered)")
    assert "class " in tab.evaluate("window.hovered")
    tab.mouse.move(0, 0)


# Through plotly's camera, whose matrices stand column after column.
PLACE_OF_NEAREST = """{
  const { model, view, projection } = c._fullLayout.scene._scene.glplot.cameraParams;
  const scale = c._fullLayout.scene._scene.dataScale, box = c.getBoundingClientRect();
  const times = (m, v) => [0, 1, 2, 3].map(i => v.reduce((sum, x, j) => sum + m[4 * j + i] * x, 0));
  const { x, y, z } = c.data[2];
  const places = x.map((_, i) => [x[i] * scale[0], y[i] * scale[1], z[i] * scale[2], 1])
    .map(v => times(projection, times(view, times(model, v)))).sort((a, b) => a[3] - b[3]);
  const [px, py, , w] = places[0];
  return [box.left + box.width * (1 + px / w) / 2, box.top + box.height * (1 - py / w) / 2];
}"""


def test_lengths_spread_what_directions_put_on_the_sphere(tab):
    def radii():
        settled(tab)
        return chart(tab, "[data-ball=left]", "c.data[2].x.map((x, i) => "
                     "Math.hypot(x, c.data[2].y[i], c.data[2].z[i]))")  # fmt: skip

    on_the_sphere = radii()
    tab.get_by_label("lengths", exact=True).check()
    spread = radii()
    assert max(on_the_sphere) - min(on_the_sphere) < 1e-3 < 0.1 < max(spread) - min(spread)
    assert "median length" in tab.locator("[data-coordinates=left]").inner_text()
    tab.get_by_label("directions", exact=True).check()
    settled(tab)


def test_the_sphere_turns_and_zooms_by_keyboard(tab):
    ball = tab.locator("[data-ball=left]")
    ball.focus()
    seen = []
    for key in ("ArrowLeft", "ArrowUp", "+", "0"):
        tab.keyboard.press(key)
        settled(tab)
        seen.append(tuple(ball.evaluate("c => Object.values(c.layout.scene.camera.eye)")))
    assert len(set(seen)) == 4


def test_projections_say_what_they_show(tab):
    chosen(tab, "[data-side=left]", "<img src=x onerror=window.hurt=1>, NTCE")
    said = tab.locator("[data-coordinates=left]").inner_text()
    assert said.startswith("A projection from 30 dimensions to three") and "% of the class" in said
    chosen(tab, "[data-side=left]", "toy, CE")


def test_dynamics_have_the_optimum_the_line_and_the_point(tab):
    assert tab.locator("#set").input_value() == "toy"
    texts = "c.layout.annotations.map(a => a.text)"
    assert chart(tab, "#curves", texts) == ["95 % of collapse 0.1"]
    assert chart(tab, "#curves", "c.data.filter(d => d.marker.symbol == 'star').length") == 1
    assert chart(tab, "#curves", "c.layout.yaxis.type") == "log"
    tab.locator("#log").uncheck()
    assert chart(tab, "#curves", texts) == ["optimum 0", "95 % of collapse 0.1"]
    tab.locator("#measure").select_option("erank_weights")
    assert chart(tab, "#curves", texts) == ["optimum 3", "95 % of collapse 2.85"]
    tab.locator("#over").select_option("step")
    assert chart(tab, "#curves", "Math.max(...c.data[0].x)") == 100
    lines = chart(tab, "#curves", "c.data.length")
    box = tab.locator("#lines input").first
    box.focus()
    tab.keyboard.press("Space")
    assert chart(tab, "#curves", "c.data.length") < lines
    box.check()
    tab.locator("#over").select_option("share")
    tab.locator("#measure").select_option("weight_alignment")


def test_panels_follow_their_select(tab):
    for name in ("classes", "confusion", "images"):
        visible = tab.locator(f"[data-panel={name}]:visible h3")
        assert visible.count() == 1 and visible.inner_text().startswith("toy, NONL")
        tab.locator(f"[data-panels={name}]").select_option(label="toy, CE")
        assert visible.inner_text().startswith("toy, CE")
    assert tab.locator("#images .wrong:visible").count() == 2
    assert tab.locator("#images img:visible").first.evaluate("i => i.naturalWidth") == 6
    for name in ("classes", "confusion", "images"):
        tab.locator(f"[data-panels={name}]").select_option(label="toy, NONL")


def test_the_keyboard_reaches_everything_that_can_be_used(tab):
    # Of a group of radio buttons the keyboard reaches the one that is chosen.
    wanted = tab.evaluate(
        """() => [...document.querySelectorAll(
          'button, input, select, a[href], summary, [tabindex="0"]')]
        .filter(e => e.checkVisibility() && !(e.type == 'radio' && !e.checked)).length"""
    )
    tab.evaluate("window.reached = new Set()")
    hidden = 0
    tab.locator(".skip").focus()
    for _ in range(wanted + 5):
        tag, style, width = tab.evaluate(
            """() => { const e = document.activeElement; window.reached.add(e);
            const s = getComputedStyle(e); return [e.tagName, s.outlineStyle, s.outlineWidth]; }"""
        )
        hidden += tag != "BODY" and (style == "none" or width == "0px")
        tab.keyboard.press("Tab")
    assert tab.evaluate("window.reached.delete(document.body), window.reached.size") == wanted
    assert hidden == 0


def shot(tab, pictures, name):
    """The page, and each section where somebody wants to see them, which takes its time."""
    # It would stand across what is taller than the window.
    tab.add_style_tag(content="header { position: static !important; }")
    for section in SECTIONS if os.environ.get("HSPROTO_SCREENSHOTS") else ():
        tab.locator(f"#{section}").screenshot(path=pictures / f"{section}_{name}.png")
    tab.evaluate("window.scrollTo(0, 0)")
    tab.screenshot(path=pictures / f"page_{name}.png", full_page=True)


@pytest.mark.slow
def test_it_fits_narrow_and_wide_and_follows_dark_mode(browser, folder, pictures):
    url = (folder / "index.html").as_uri()
    tab, seen = open_page(browser, url, SIZES[0], color_scheme="light", reduced_motion="reduce")
    for size in SIZES:
        tab.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
        grounds = []
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            surface = "getComputedStyle(document.documentElement).getPropertyValue('--surface')"
            for place in ("#curves", "[data-ball=left]", "[data-ball=right]"):
                eventually(
                    tab,
                    f"document.querySelector('{place}').layout.paper_bgcolor == {surface}.trim()",
                )
            settled(tab)
            assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
            line = chart(tab, "#curves", "c.data[0].line.color")
            ball = chart(tab, "[data-ball=left]", "c.layout.scene.bgcolor")
            ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            grounds.append((ground, chart(tab, "#curves", "c.layout.plot_bgcolor"), ball, line))
            shot(tab, pictures, f"{scheme}_{size[0]}")
        assert all(light != dark for light, dark in zip(*grounds, strict=True)), grounds
    assert seen.errors == [] and outside(seen) == [url]
    tab.context.close()
