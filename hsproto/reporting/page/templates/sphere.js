// Features and prototypes over training, on the sphere and in the plane, in one or two panes.
const sphere = (() => {
  const { color, arrays, cosine, name, hover, short, marks, withThumbnails } = points;
  const watched = data.runs.filter((run) => run.sphere);
  if (!watched.length) return null;

  const slider = query("#frame");
  const play = query("#play");
  const home = { x: 1.02, y: 1.02, z: 0.66 };
  const panes = queryAll("[data-ball]").map((ball) => {
    const side = ball.dataset.ball;
    const part = (name) => query(`[data-${name}="${side}"]`);
    return {
      ball, select: part("side"), told: part("told"), coordinates: part("coordinates"),
      legend: part("legend"), eye: { ...home }, run: null, frame: -1, plane: part("plane"),
      whole: part("pane"), kind: query(`[data-plane-of="${side}"]`), note: part("plane-note"),
    };
  });

  // All steps at which a pane has a snapshot; the slider goes through them, for all runs alike.
  let steps = [];
  const lengths = () => query("[name=scale]:checked").value === "lengths";

  // The last snapshot that is not after a step, or the first one.
  function frameAt(run, step) {
    const after = run.sphere.steps.findIndex((each) => each > step);
    return Math.max(0, (after < 0 ? run.sphere.steps.length : after) - 1);
  }

  // Rows `frame` of [S, N, 3] as x, y, z, and as far out as the lengths [S, N] say.
  function coordinates(run, name, frame) {
    const { read } = run.sphere;
    const count = run.sphere[name].shape[1];
    const far = read[name === "points" ? "lengths" : "prototype_lengths"];
    const out = [[], [], []];
    for (let i = 0; i < count; i++) {
      const radius = lengths() ? far[frame * count + i] * 1e-3 : 1;
      for (let axis = 0; axis < 3; axis++) {
        out[axis].push(radius * read[name][(frame * count + i) * 3 + axis] * run.sphere[name].scale);
      }
    }
    return out;
  }

  // How far from the center a picture goes: in lengths to the 99th percentile of all steps.
  function reached(run) {
    if (!lengths()) return 1.1;
    const { lengths: images, prototype_lengths: prototypes } = arrays(run);
    const all = [images, prototypes].map((values) => [...values].sort((a, b) => a - b));
    const long = all.map((values) => values[Math.floor(0.99 * (values.length - 1))] * 1e-3);
    return 1.05 * Math.max(1, ...long);
  }

  // Circles of latitude and longitude, with gaps between.
  const wires = (() => {
    const out = [[], [], []];
    const turn = Array.from({ length: 49 }, (_, i) => (i * Math.PI) / 24);
    const circle = (point) => {
      turn.forEach((angle) => point(angle).forEach((value, axis) => out[axis].push(value)));
      out.forEach((values) => values.push(null));
    };
    for (let i = -2; i <= 2; i++) {
      const tilt = (i * Math.PI) / 6;
      circle((a) => [Math.cos(tilt) * Math.cos(a), Math.cos(tilt) * Math.sin(a), Math.sin(tilt)]);
    }
    for (let i = 0; i < 6; i++) {
      const side = (i * Math.PI) / 6;
      circle((a) => [Math.cos(a) * Math.cos(side), Math.cos(a) * Math.sin(side), Math.sin(a)]);
    }
    return out;
  })();

  function traces(run, frame) {
    const found = run.sphere;
    const read = arrays(run);
    const colors = theme();
    const { right, color: hues, symbol } = marks(run, frame);
    const [px, py, pz] = coordinates(run, "points", frame);
    const [wx, wy, wz] = coordinates(run, "prototypes", frame);
    const rays = [wx, wy, wz].map((values) => values.flatMap((value) => [0, value, null]));
    const length = (c) => (read.prototype_lengths[frame * wx.length + c] * 1e-3
      * found.prototype_unit).toPrecision(3);
    return [
      { type: "scatter3d", mode: "lines", x: wires[0], y: wires[1], z: wires[2], hoverinfo: "skip",
        line: { color: colors.line, width: 1.5 } },
      { type: "scatter3d", mode: "lines", x: rays[0], y: rays[1], z: rays[2], hoverinfo: "skip",
        line: { color: colors.muted, width: 2 } },
      { type: "scatter3d", mode: "markers", x: px, y: py, z: pz, text: hover(run, frame),
        hoverinfo: "text",
        marker: { size: right.map((is) => (is ? 4 : 7)), symbol, color: hues, opacity: 0.85,
          line: { width: 0 } } },
      { type: "scatter3d", mode: "markers", x: wx, y: wy, z: wz, hoverinfo: "text",
        text: found.classes.map((label, c) =>
          `prototype of ${literal(name(run, label))}<br>length ${length(c)}`),
        marker: { symbol: "diamond", size: 9, color: found.classes.map(color), opacity: 1,
          line: { color: colors.ink, width: 2 } } },
    ];
  }

  function layout(pane) {
    const colors = theme();
    const found = pane.run.sphere;
    const reach = reached(pane.run);
    const axis = { visible: false, range: [-reach, reach], autorange: false };
    const [x, y, z] = coordinates(pane.run, "prototypes", pane.frame);
    // More names than these would stand on each other.
    const named = found.classes.length <= 12 ? found.classes : [];
    return {
      margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, hovermode: "closest",
      paper_bgcolor: colors.surface, font: { color: colors.ink },
      hoverlabel: { bgcolor: colors.surface, bordercolor: colors.muted, align: "left",
        font: { color: colors.ink } },
      scene: {
        xaxis: axis, yaxis: axis, zaxis: axis, aspectmode: "cube", dragmode: "orbit",
        bgcolor: colors.surface, camera: { eye: pane.eye, up: { x: 0, y: 0, z: 1 } },
        annotations: named.map((label, c) => ({
          x: x[c], y: y[c], z: z[c], text: literal(short(name(pane.run, label))), showarrow: false,
          yshift: 16, font: { color: colors.ink, size: 12 }, bgcolor: colors.surface, opacity: 0.9,
          borderpad: 1,
        })),
      },
    };
  }

  function tell(pane) {
    const { run, frame } = pane;
    const read = arrays(run);
    const count = read.labels.length;
    const places = Array.from({ length: count }, (_, i) => frame * count + i);
    const right = places.filter((place, i) => read.predicted[place] === read.labels[i]).length;
    const own = places.map((place) => cosine(read, "cosine_true", place)).filter((c) => c !== null);
    const long = places.map((place) => read.lengths[place] * 1e-3 * run.sphere.length_unit);
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const spread = (values) => {
      const middle = mean(values);
      return Math.sqrt(mean(values.map((value) => (value - middle) ** 2)));
    };
    const both = (values, digits) =>
      values.length ? `${shown(mean(values), digits)} ± ${shown(spread(values), digits)}` : "–";
    const step = run.sphere.steps[frame];
    const sought = steps[Number(slider.value)];
    const nearest = step < sought ? " (its last snapshot so far)"
      : step > sought ? " (its first snapshot)" : "";
    pane.told.textContent = `Step ${step} of ${run.total}${nearest}: `
      + `${shown((100 * right) / count, 1)} % of ${count} images right, cosine to their prototype `
      + `${both(own, 2)}, length ${both(long, 1)}.`;
  }

  function introduce(pane) {
    const { run } = pane;
    const found = run.sphere;
    const units = lengths() ? ` The sphere is the median length at the end: `
      + `${found.length_unit} of images, ${found.prototype_unit} of prototypes.` : "";
    pane.coordinates.textContent = (found.exact
      ? `Exact: the features have ${found.dimensions} dimensions.`
      : `A projection from ${found.dimensions} dimensions to three, the same at every step, that `
        + `shows ${shown(100 * found.share_means, 1)} % of the class means (mean squared length of unit `
        + `vectors) and ${shown(100 * found.share_features, 1)} % of the images.`) + units
      + (found.sprite ? "" : " There are no pictures of the images to show.")
      + (found.unreadable ? ` Left out: ${found.unreadable} snapshots that cannot be read.` : "");
    plane.introduce(pane);
    pane.legend.replaceChildren(...found.classes.map((label) => {
      const item = document.createElement("li");
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = color(label);
      item.append(swatch, name(run, label));
      return item;
    }));
  }

  async function draw(pane) {
    const options = { displayModeBar: false, responsive: true, scrollZoom: true };
    await Plotly.react(pane.ball, traces(pane.run, pane.frame), layout(pane), options);
    await plane.draw(pane);
    if (!pane.listens) {
      pane.listens = true;
      withThumbnails(pane.ball, 2, () => pane.run);
      withThumbnails(pane.plane, plane.IMAGES, () => pane.run);
      pane.ball.on("plotly_relayout", (change) => {
        if (change["scene.camera"]) pane.eye = change["scene.camera"].eye;
      });
    }
    tell(pane);
  }

  async function seek() {
    const step = steps[Number(slider.value)] ?? 0;
    query("#moment").textContent = `step ${step}`;
    slider.setAttribute("aria-valuetext", `step ${step}`);
    for (const pane of panes) {
      pane.frame = frameAt(pane.run, step);
      await draw(pane);
    }
  }

  function choose() {
    for (const pane of panes) pane.run = runs.get(pane.select.value);
    const all = panes.flatMap(({ run }) => run.sphere.steps);
    steps = [...new Set(all)].sort((first, second) => first - second);
    slider.max = steps.length - 1;
    slider.value = steps.length - 1;
    panes.forEach(introduce);
    return seek();
  }

  let playing = false;
  function stop() {
    playing = false;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }
  async function start() {
    playing = true;
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    if (slider.value === slider.max) slider.value = 0;
    while (playing) {
      await seek();
      if (slider.value === slider.max) break;
      // Who asked for less motion gets steps rather than a film.
      await new Promise((done) => setTimeout(done, calm.matches ? 1200 : 220));
      if (playing) slider.value = Number(slider.value) + 1;
    }
    stop();
  }

  // Turns about the vertical and tilts, in degrees, and comes nearer.
  function move(pane, turn, tilt, nearer) {
    const { x, y, z } = pane.eye;
    const far = Math.hypot(x, y, z) / nearer;
    const around = Math.atan2(y, x) + (turn * Math.PI) / 180;
    const above = Math.asin(z / Math.hypot(x, y, z)) + (tilt * Math.PI) / 180;
    const up = Math.max(-1.5, Math.min(1.5, above));
    pane.eye = {
      x: far * Math.cos(up) * Math.cos(around), y: far * Math.cos(up) * Math.sin(around),
      z: far * Math.sin(up),
    };
    return Plotly.relayout(pane.ball, { "scene.camera.eye": pane.eye });
  }
  const keys = {
    ArrowLeft: [-10, 0, 1], ArrowRight: [10, 0, 1], ArrowUp: [0, 10, 1], ArrowDown: [0, -10, 1],
    "+": [0, 0, 1.15], "=": [0, 0, 1.15], "-": [0, 0, 1 / 1.15],
  };

  for (const pane of panes) {
    pane.select.addEventListener("change", choose);
    pane.kind.addEventListener("change", () => { plane.tell(pane); plane.draw(pane); });
    pane.ball.addEventListener("keydown", (event) => {
      if (event.key === "0") pane.eye = { ...home };
      else if (!keys[event.key]) return;
      event.preventDefault();
      move(pane, ...(keys[event.key] || [0, 0, 1]));
    });
  }
  slider.addEventListener("input", () => { stop(); seek(); });
  play.addEventListener("click", () => (playing ? stop() : start()));
  for (const scale of queryAll("[name=scale]")) {
    scale.addEventListener("change", () => { panes.forEach(introduce); seek(); });
  }
  onTheme(() => panes.forEach(draw));

  const of = (loss) => watched.find((run) => run.loss === loss);
  const right = of("nonl") || watched[watched.length - 1];
  const left = of("cross_entropy") || watched.find((run) => run !== right) || right;
  panes[0].select.value = panes.length > 1 ? left.id : watched[0].id;
  if (panes.length > 1) panes[1].select.value = right.id;
  // After the rest of the page, as WebGL takes its time to start.
  const later = new Promise((done) => setTimeout(done, 50));
  return { panes, ready: later.then(choose) };
})();
