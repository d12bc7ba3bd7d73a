// A measure over training, a line a run.
const dynamics = (() => {
  const chart = query("#curves");
  const controls = Object.fromEntries(
    ["measure", "split", "set", "over", "log"].map((id) => [id, query(`#${id}`)]));
  const hidden = new Set();

  const there = (run, { key, of_batches }) => (of_batches ? key in run.curves.batches
    : key in run.curves.evaluations.train || key in run.curves.evaluations.test);
  const measures = data.measures.filter((measure) => data.runs.some((run) => there(run, measure)));
  const nothing = query("#nothing");
  if (!measures.length) {
    nothing.hidden = false;
    nothing.textContent = "No run has been measured yet.";
    chart.hidden = true;
  }
  const current = () => measures.find(({ key }) => key === controls.measure.value);
  const words = (key) => key.replaceAll("_", " ");

  controls.measure.append(...measures.map(({ key }) => option(key, words(key))));
  const preferred = measures.find(({ key }) => key === "weight_alignment") || measures[0];
  if (preferred) controls.measure.value = preferred.key;
  const sets = [...new Set(data.runs.map((run) => run.data))];
  if (sets.length > 1) controls.set.append(option("", "all"));
  controls.set.append(...sets.map((name) => option(name, name)));
  // One data set at first: runs on different ones have different optima.
  controls.set.value = sets[0];

  const ofSet = () =>
    data.runs.filter((run) => !controls.set.value || run.data === controls.set.value);

  function series(run) {
    const { key, of_batches } = current();
    const { evaluations, batches } = run.curves;
    const values = of_batches ? batches[key] : evaluations[controls.split.value][key];
    return values ? { steps: of_batches ? batches.steps : evaluations.steps, values } : null;
  }
  const place = (run, step) => (controls.over.value === "share" ? (100 * step) / run.total : step);

  function line(run) {
    const found = series(run);
    if (!found || hidden.has(run.id)) return null;
    const log = controls.log.checked;
    // A log axis has no place for 0; what is undefined leaves a gap.
    const values = found.values.map((value) => (log && value <= 0 ? null : value));
    return {
      type: "scatter", mode: current().of_batches ? "lines" : "lines+markers", connectgaps: false,
      x: found.steps.map((step) => place(run, step)), y: values, name: literal(run.label),
      customdata: found.steps,
      line: { color: visible(run.look.color), dash: run.look.dash, width: 2 },
      marker: { symbol: run.look.marker, size: 6, color: visible(run.look.color) },
      hovertemplate: `${literal(run.label)}<br>step %{customdata}: %{y:.5g}<extra></extra>`,
    };
  }

  // Where a run's measure has converged, on its curve.
  function mark(run) {
    const found = run.converged[current().key];
    const curve = series(run);
    if (!found || found.step === null || !curve || hidden.has(run.id)) return null;
    if (controls.split.value !== "train") return null;
    const value = curve.values[curve.steps.indexOf(found.step)];
    if (value === null || value === undefined) return null;
    return {
      type: "scatter", mode: "markers", x: [place(run, found.step)], y: [value],
      name: `${literal(run.label)} converged`,
      marker: { symbol: "star", size: 15, color: visible(run.look.color),
        line: { color: theme().ink, width: 1 } },
      hovertemplate: `${literal(run.label)}<br>converged at ${found.by_first ? "or before " : ""}`
        + `step ${found.step}, ${shown(found.share, 1)} % of training<extra></extra>`,
    };
  }

  const brief = (value) => String(Number(value.toPrecision(3))).replace("-", "−");

  // The optimum is named at the left and 95 % of the way at the right, as they may be close.
  function level(value, dash, text, side, colors) {
    return {
      shape: { type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value,
        line: { color: colors.muted, width: 1.5, dash } },
      annotation: { xref: "paper", x: side === "left" ? 0 : 1, xanchor: side, yanchor: "bottom",
        showarrow: false, bgcolor: colors.surface, opacity: 0.85, borderpad: 0,
        y: controls.log.checked ? Math.log10(value) : value, text,
        font: { color: colors.muted, size: 11 } },
    };
  }

  function levels(colors) {
    const { key, of_batches } = current();
    if (of_batches) return [];
    const some = ofSet().filter((run) => series(run));
    const fits = (value) =>
      value !== null && value !== undefined && (!controls.log.checked || value > 0);
    const each = (values) => [...new Set(values.filter(fits))];
    const optima = each(some.map((run) => run.optimum[key]));
    const nearly = controls.split.value === "train"
      ? each(some.map((run) => run.converged[key]?.threshold)) : [];
    return [
      ...optima.map((value) => level(value, "dash", `optimum ${brief(value)}`, "left", colors)),
      ...nearly.map((value) =>
        level(value, "dot", `95 % of collapse ${brief(value)}`, "right", colors)),
    ];
  }

  // Over several powers of ten only these are ticks, else the figures between would overlap.
  function ticks(lines) {
    if (!controls.log.checked) return {};
    const values = lines.flatMap(({ y }) => y).filter((value) => value > 0);
    const wide = Math.log10(Math.max(...values) / Math.min(...values)) > 1.2;
    return { dtick: wide ? 1 : "D2", exponentformat: "none" };
  }

  function layout(drawn) {
    const colors = theme();
    const lines = levels(colors);
    const axis = { gridcolor: colors.line, zerolinecolor: colors.line, linecolor: colors.muted,
      tickfont: { color: colors.muted }, automargin: true };
    const share = controls.over.value === "share";
    return {
      margin: { l: 50, r: 14, t: 14, b: 45 }, showlegend: false, hovermode: "closest",
      paper_bgcolor: colors.surface, plot_bgcolor: colors.surface, font: { color: colors.ink },
      hoverlabel: { bgcolor: colors.surface, bordercolor: colors.muted, align: "left",
        font: { color: colors.ink } },
      xaxis: { ...axis, title: { text: share ? "share of training, %" : "step" },
        ...(share ? { range: [0, 101.5] } : { rangemode: "tozero" }) },
      yaxis: { ...axis, type: controls.log.checked ? "log" : "linear",
        title: { text: words(current().key) }, ...ticks(drawn) },
      shapes: lines.map(({ shape }) => shape), annotations: lines.map(({ annotation }) => annotation),
    };
  }

  function draw() {
    if (!measures.length) return Promise.resolve();
    const { meaning, of_batches } = current();
    controls.split.disabled = of_batches;
    query("#meaning").textContent = `${meaning}.`;
    const shownRuns = ofSet();
    const lines = [...shownRuns.map(line), ...(of_batches ? [] : shownRuns.map(mark))];
    const without = shownRuns.filter((run) => !series(run)).map((run) => run.label);
    nothing.hidden = !without.length;
    nothing.textContent = `Not measured in: ${without.join("; ")}.`;
    const options = { displayModeBar: false, responsive: true };
    const drawn = lines.filter(Boolean);
    return Plotly.react(chart, drawn, layout(drawn), options);
  }

  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    return made;
  };
  const dashes = { solid: "", dash: "6 4", dot: "2 3", dashdot: "6 3 2 3", longdash: "10 4",
    longdashdot: "10 3 2 3" };

  function legend() {
    query("#lines").replaceChildren(...ofSet().map((run) => {
      const item = document.createElement("li");
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !hidden.has(run.id);
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(run.id);
        else hidden.add(run.id);
        draw();
      });
      const swatch = svg("svg", { width: 30, height: 10, "aria-hidden": "true" });
      swatch.append(svg("line", { x1: 0, x2: 30, y1: 5, y2: 5, "stroke-width": 2.5,
        stroke: visible(run.look.color), "stroke-dasharray": dashes[run.look.dash] }));
      label.append(box, swatch, run.label + (run.finished ? "" : " (not finished)"));
      item.append(label);
      return item;
    }));
  }

  function begin() {
    if (measures.length) controls.log.checked = current().log;
    return draw();
  }
  controls.measure.addEventListener("change", begin);
  controls.set.addEventListener("change", () => { legend(); draw(); });
  for (const id of ["split", "over", "log"]) controls[id].addEventListener("change", draw);
  onTheme(() => { legend(); draw(); });
  legend();
  return { ready: begin() };
})();

// Both are drawn: what tests and links to a section wait for.
Promise.all([sphere && sphere.ready, dynamics.ready]).then(() =>
  document.documentElement.setAttribute("data-drawn", "true"));
