// What charts of a run's test images share: colors, names, texts, and the picture of an image.
const points = (() => {
  const hues = ["#4477dd", "#e0701b", "#2e9e5b", "#d03b4f", "#9065c9", "#9a6a4d", "#d767b0",
    "#7f8794", "#a9a31d", "#23a8ba"];
  const color = (label) =>
    label < hues.length ? hues[label] : `hsl(${Math.round((label * 137.5) % 360)} 60% 52%)`;

  function arrays(run) {
    const found = run.sphere;
    if (!found.read) {
      found.read = {};
      for (const [name, value] of Object.entries(found)) {
        if (value && value.b64 !== undefined) found.read[name] = unpack(value);
      }
    }
    return found.read;
  }

  const cosine = (read, name, place) => (read[name][place] === -128 ? null : read[name][place] / 100);
  const name = (run, label) => run.sphere.class_names[label] ?? String(label);

  function hover(run, frame) {
    const read = arrays(run);
    const count = read.labels.length;
    return Array.from(read.labels, (label, i) => {
      const place = frame * count + i;
      const taken = read.predicted[place];
      const length = read.lengths[place] * 1e-3 * run.sphere.length_unit;
      return [
        `${literal(name(run, label))}${taken === label ? "" : ` ✕ taken for ${literal(name(run, taken))}`}`,
        `cosine to its prototype ${shown(cosine(read, "cosine_true", place), 2)}`,
        ...(taken === label ? []
          : [`to that it is taken for ${shown(cosine(read, "cosine_predicted", place), 2)}`]),
        `length ${length.toPrecision(3)}`,
      ].join("<br>");
    });
  }

  const short = (text, most = 16) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  // The marks of images: a plus, as not every font has plotly's sign for "x".
  function marks(run, frame) {
    const read = arrays(run);
    const count = read.labels.length;
    const labels = Array.from(read.labels);
    const right = labels.map((label, i) => read.predicted[frame * count + i] === label);
    return { right, color: labels.map(color), symbol: right.map((is) => (is ? "circle" : "cross")) };
  }

  // Shows the image of a point beside its chart for as long as a pointer is over it.
  function withThumbnails(chart, trace, runOf) {
    const thumb = query(".thumb", chart.parentElement);
    chart.on("plotly_hover", ({ points: [point] }) => {
      const run = runOf();
      const sprite = data.sprites[run.sphere.sprite];
      const tile = sprite && point.curveNumber === trace ? sprite.tiles[point.pointNumber] : -1;
      thumb.hidden = tile < 0;
      if (thumb.hidden) return;
      const scale = 72 / sprite.side;
      const [row, column] = [Math.floor(tile / sprite.columns), tile % sprite.columns];
      Object.assign(thumb.style, {
        backgroundImage: `url(${sprite.picture})`,
        backgroundSize: `${sprite.columns * 72}px ${sprite.rows * 72}px`,
        backgroundPosition: `${-column * sprite.side * scale}px ${-row * sprite.side * scale}px`,
      });
    });
    chart.on("plotly_unhover", () => { thumb.hidden = true; });
  }

  return { color, arrays, cosine, name, hover, short, marks, withThumbnails };
})();
