// Sections that hold a panel for each run show the one that is selected.
for (const select of queryAll("select[data-panels]")) {
  const panels = queryAll(`[data-panel="${select.dataset.panels}"]`);
  const show = () => panels.forEach((panel) => (panel.hidden = panel.dataset.run !== select.value));
  // NONL first, as its prototypes are what most pages are made to show.
  const first = data.runs.find((run) => run.loss === "nonl") || data.runs[0];
  select.value = first.id;
  select.addEventListener("change", show);
  show();
}
