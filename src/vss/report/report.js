// Sorts a score table by the heading clicked; a second click turns the order round. Without it the page reads the same.
for (const table of document.querySelectorAll("table.scores")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead tr:last-child th").forEach((heading, column) => {
    heading.dataset.sort = "";
    heading.tabIndex = 0;
    const value = row => {
      const text = row.cells[column].textContent;
      return heading.classList.contains("name") ? text : parseFloat(text);
    };
    const sort = () => {
      const down = heading.getAttribute("aria-sort") !== "descending" && column > 1;
      const up = !down && heading.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("[aria-sort]").forEach(other => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (typeof x === "string") return x.localeCompare(y);
        return isNaN(x) - isNaN(y) || x - y;  // rows without a figure stay last
      });
      if (!up) {
        const known = rows.filter(row => typeof value(row) === "string" || !isNaN(value(row))).reverse();
        rows.splice(0, known.length, ...known);
      }
      rows.forEach(row => { row.classList.remove("first"); body.append(row); });
    };
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}

// A click on a panel gives it the page's width.
for (const image of document.querySelectorAll(".frame img")) {
  image.addEventListener("click", () => image.parentElement.classList.toggle("large"));
}
