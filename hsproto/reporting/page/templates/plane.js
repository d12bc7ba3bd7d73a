// Features and prototypes in two dimensions: between the corners of a circle, or on a map.
const plane = (() => {
  const { color, arrays, name, hover, short, marks } = points;
  const IMAGES = 2; // the trace of images

  // Rows `frame` of [S, N, 2] as x and y.
  function coordinates(run, key, frame) {
    const { shape: [, count], scale } = run.sphere[key];
    const read = arrays(run)[key];
    return [0, 1].map((axis) =>
      Array.from({ length: count }, (_, i) => read[(frame * count + i) * 2 + axis] * scale));
  }

  // A map's width is that of all steps, so that what moves has moved.
  function reached(run, kind) {
    if (kind === "circle") return 1.02;
    const far = [kind, `${kind}_prototypes`].map((key) => {
      const { scale } = run.sphere[key];
      return arrays(run)[key].reduce((most, value) => Math.max(most, Math.abs(value) * scale), 0);
    });
    return 1.05 * Math.max(...far);
  }

  const corner = (place, count) => {
    const angle = (2 * Math.PI * place) / count;
    return [Math.sin(angle), Math.cos(angle)];
  };

  function ring(count) {
    const angles = Array.from({ length: 121 }, (_, i) => (i * Math.PI) / 60);
    const corners = Array.from({ length: count }, (_, place) => corner(place, count));
    return { line: [angles.map(Math.sin), angles.map(Math.cos)],
      corners: [corners.map(([x]) => x), corners.map(([, y]) => y)] };
  }

  function traces(pane) {
    const { run, frame } = pane;
    const kind = pane.kind.value;
    const colors = theme();
    const { classes } = run.sphere;
    const { right, color: hues, symbol } = marks(run, frame);
    const [x, y] = coordinates(run, kind, frame);
    const [px, py] = coordinates(run, `${kind}_prototypes`, frame);
    const { line, corners } = ring(classes.length);
    const circle = kind === "circle";
    const plain = { type: "scatter", hoverinfo: "skip", showlegend: false };
    return [
      { ...plain, mode: "lines", x: circle ? line[0] : [], y: circle ? line[1] : [],
        line: { color: colors.line, width: 1.5 } },
      { ...plain, mode: "markers", x: circle ? corners[0] : [], y: circle ? corners[1] : [],
        marker: { symbol: "circle-open", size: 17, color: classes.map(color),
          line: { width: 1.5 } } },
      { type: "scatter", mode: "markers", x, y, text: hover(run, frame), hoverinfo: "text",
        marker: { size: right.map((is) => (is ? 6 : 9)), symbol, color: hues, opacity: 0.75,
          line: { width: 0 } } },
      { type: "scatter", mode: "markers", x: px, y: py, hoverinfo: "text",
        text: classes.map((label) => `prototype of ${literal(name(run, label))}`),
        marker: { symbol: "diamond", size: 11, color: classes.map(color),
          line: { color: colors.ink, width: 1.5 } } },
    ];
  }

  // Names stand outside the corners of the circle, or above the prototypes of a map.
  function names(pane, colors) {
    const { run, frame } = pane;
    const { classes } = run.sphere;
    const circle = pane.kind.value === "circle";
    if (classes.length > (circle ? 30 : 12)) return [];
    const [px, py] = coordinates(run, "map_prototypes", frame);
    return classes.map((label, place) => {
      const [x, y] = circle ? corner(place, classes.length) : [px[place], py[place]];
      const side = circle && Math.abs(x) > 0.2 ? Math.sign(x) : 0;
      return {
        x, y, text: literal(short(name(run, label), classes.length > 12 ? 8 : 11)),
        showarrow: false, xanchor: ["right", "center", "left"][side + 1],
        yanchor: side ? "middle" : circle && y < 0 ? "top" : "bottom",
        xshift: side * 11, yshift: side ? 0 : circle && y < 0 ? -11 : 11,
        font: { color: colors.ink, size: classes.length > 12 ? 10 : 12 },
        ...(circle ? {} : { bgcolor: colors.surface, opacity: 0.85, borderpad: 0 }),
      };
    });
  }

  function layout(pane) {
    const colors = theme();
    const reach = reached(pane.run, pane.kind.value);
    const axis = { visible: false, range: [-1.2 * reach, 1.2 * reach], fixedrange: true };
    return {
      // Room for the names at both sides of a circle.
      margin: pane.kind.value === "circle" ? { l: 44, r: 44, t: 0, b: 0 } : { l: 0, r: 0, t: 0, b: 0 },
      showlegend: false, hovermode: "closest",
      paper_bgcolor: colors.surface, plot_bgcolor: colors.surface, font: { color: colors.ink },
      hoverlabel: { bgcolor: colors.surface, bordercolor: colors.muted, align: "left",
        font: { color: colors.ink } },
      xaxis: axis, yaxis: { ...axis, scaleanchor: "x" }, annotations: names(pane, colors),
    };
  }

  function tell(pane) {
    const { run } = pane;
    const { classes, share_map: share } = run.sphere;
    const some = classes.length < run.classes ? `, of ${run.classes} those watched` : "";
    const others = run.classes > 1 ? shown(-1 / (run.classes - 1), 3) : "–";
    pane.note.textContent = pane.kind.value === "circle"
      ? `The ${classes.length} classes${some} as corners, evenly in their order. At its corner an image has `
        + `the cosines of collapse, 1 to its own prototype and ${others} to all others; in the center the same `
        + "to all; between, a weighted sum of corners. Distances between corners mean nothing."
      : `The two main axes of the class means, the same at every step: they show ${shown(100 * share, 0)} % `
        + "of the variance of the class means.";
  }

  // Where three dimensions do not show the simplex the circle comes first.
  function introduce(pane) {
    const many = pane.run.classes > 4;
    pane.whole.classList.toggle("many", many);
    if (pane.many !== many) pane.kind.value = many ? "circle" : "map";
    pane.many = many;
    tell(pane);
  }

  function draw(pane) {
    const options = { displayModeBar: false, responsive: true };
    return Plotly.react(pane.plane, traces(pane), layout(pane), options);
  }

  return { IMAGES, draw, introduce, tell };
})();
