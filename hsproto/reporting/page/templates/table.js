// The table of methods: sorted by a click on a column's head, filtered by a text.
{
  const table = query("#methods");
  const body = table.tBodies[0];
  const heads = queryAll("thead th", table);
  const filter = query("#filter");

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (!heads[column].classList.contains("value") && !cell.dataset.value) {
      return cell.textContent.trim();
    }
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  };

  function sort(column) {
    const up = heads[column].getAttribute("aria-sort") !== "ascending";
    heads.forEach((head, place) =>
      head.setAttribute("aria-sort", place !== column ? "none" : up ? "ascending" : "descending"));
    const rows = [...body.rows].map((row) => [keyOf(row, column), row]);
    rows.sort(([first], [second]) => {
      // What is undefined stands last whichever way the column is sorted.
      if (first === null || second === null) return (first === null) - (second === null);
      const order = typeof first === "number" ? first - second
        : first.localeCompare(second, "en", { numeric: true });
      return up ? order : -order;
    });
    body.append(...rows.map(([, row]) => row));
  }

  function narrow() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of body.rows) {
      const text = row.dataset.words.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      left += !row.hidden;
    }
    query("#filtered").textContent = words.length ? `${left} of ${body.rows.length} rows` : "";
  }

  heads.forEach((head, column) =>
    query("button", head).addEventListener("click", () => sort(column)));
  filter.addEventListener("input", narrow);
}
