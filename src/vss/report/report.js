// What the report's controls do. Without it the page reads the same, but for the tables that compare classes.
"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const at = id => document.getElementById(id);

// ---- tables are sorted by the heading clicked; a second click turns the order round
function sortable(table) {
  all("thead th", table).forEach((heading, column) => {
    heading.dataset.sort = "";
    heading.tabIndex = 0;
    const words = heading.classList.contains("name") || heading.classList.contains("words");
    const value = row => {
      const cell = row.cells[column];
      return words ? cell.textContent.trim() : parseFloat(cell.dataset.value ?? cell.textContent);
    };
    const sort = () => {
      const up = heading.getAttribute("aria-sort") ? heading.getAttribute("aria-sort") === "descending" : words || column === 0;
      all("[aria-sort]", table).forEach(other => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const known = value => words ? value !== "" : !isNaN(value);
      const rows = [...table.tBodies[0].rows].map(row => [value(row), row]);
      rows.sort(([x], [y]) => {
        if (!known(x) || !known(y)) return known(y) - known(x);  // rows without a figure stay last
        return (words ? x.localeCompare(y) : x - y) * (up ? 1 : -1);
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    };
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", event => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort();
    });
  });
}
all("table.sortable").forEach(sortable);

// ---- the score table by convention and by text
const shows = (row, text) => row.textContent.toLowerCase().includes(text.trim().toLowerCase());
all("table.scores").forEach(table => {
  const convention = document.querySelector("select.convention"), search = document.querySelector("input.search");
  const headline = all("thead [data-convention]", table).map(heading => !heading.hidden);
  convention.onchange = () => {
    for (const row of table.rows) all("[data-convention]", row).forEach((cell, column) => {
      const chosen = convention.value;
      cell.hidden = chosen === "" ? !headline[column] : chosen !== "*" && cell.dataset.convention !== chosen;
    });
  };
  search.oninput = () => { for (const row of table.tBodies[0].rows) row.classList.toggle("filtered", !shows(row, search.value)); };
});

// ---- a click on a panel gives it the page's width
all(".frame img").forEach(image => image.addEventListener("click", () => image.parentElement.classList.toggle("large")));

// ---- a name in the list and its dot in the charts point at each other
all(".dots li").forEach(item => {
  const dots = all(`[data-part="dot-${item.dataset.dot}"]`);
  const mark = on => [item, ...dots].forEach(one => one.classList.toggle("marked", on));
  [item, ...dots].forEach(one => {
    one.addEventListener("pointerenter", () => mark(true));
    one.addEventListener("pointerleave", () => mark(false));
  });
});

// ---- training curves: which runs, how smooth
function showCurves() {
  const off = new Set(all("[data-run]").filter(box => !box.checked).map(box => `run-${box.dataset.run}`));
  all('[data-part^="run-"]').forEach(curve => {
    const [run, smooth] = curve.dataset.part.split(" ");
    const hidden = off.has(run) || (smooth !== undefined && smooth !== `smooth-${at("smoothing").value}`);
    if (hidden) curve.setAttribute("display", "none"); else curve.removeAttribute("display");
  });
}
if (at("smoothing")) [at("smoothing"), ...all("[data-run]")].forEach(control => control.addEventListener("change", showCurves));

// ---- two predictions class by class, and the confusions of one; names are only ever set as text
const compared = at("compared") && JSON.parse(at("compared").textContent);
function make(kind, text = "", attributes = {}) {
  const element = document.createElement(kind);
  element.textContent = text;
  Object.assign(element, attributes);
  return element;
}
function link(text, place, title = "Show it in the videos") {
  return place === undefined ? make("span", text) : make("a", text, {href: `viewer.html#${place}`, title});
}
function cell(value, text, ...parts) {
  const made = make("td", text);
  if (value !== undefined) made.dataset.value = value ?? NaN;
  made.append(...parts);
  return made;
}
const className = index => index < 0 ? "no class" : compared.classes[index];
const percent = value => value === null ? "\u2013" : value.toFixed(2);

function takenFor(prediction, index) {
  const parts = prediction.taken[index].map(([label, share]) =>
    link(`${className(label)} ${share.toFixed(1)}%`, prediction.confusions[`${index}>${label}`]));
  const made = make("td", "", {className: "words"});
  parts.forEach((part, place) => made.append(...(place ? ["; ", part] : [part])));
  return made;
}

function compareClasses() {
  const [first, second] = ["first", "second"].map(id => compared.predictions[at(id).value]);
  const rows = [];
  compared.classes.forEach((name, index) => {
    if (!compared.pixels[index] && !first.predicted[index] && !second.predicted[index]) return;
    const [one, other] = [first.iou[index], second.iou[index]];
    const difference = one === null || other === null ? null : one - other;
    const row = make("tr"), heading = make("th", "", {className: "name", scope: "row"});
    heading.append(link(name, first.places[index] ?? second.places[index] ?? compared.places[index]));
    const signed = difference === null ? "\u2013" : `${difference > 0 ? "+" : ""}${difference.toFixed(2)}`;
    row.append(heading, cell(compared.pixels[index], compared.pixels[index].toLocaleString("en")),
      cell(one, percent(one)), cell(other, percent(other)), cell(difference, signed),
      takenFor(first, index), takenFor(second, index));
    row.dataset.difference = Math.abs(difference ?? 0);
    rows.push(row);
  });
  rows.sort((a, b) => b.dataset.difference - a.dataset.difference);
  at("class-by-class").tBodies[0].replaceChildren(...rows);
  all("[aria-sort]", at("class-by-class")).forEach(heading => heading.removeAttribute("aria-sort"));
  filterClasses();
}
function filterClasses() {
  for (const row of at("class-by-class").tBodies[0].rows) row.classList.toggle("filtered", !shows(row.cells[0], at("classes-with").value));
}

function showConfusions() {
  const prediction = compared.predictions[at("confused").value];
  const found = compared.classes.flatMap((_, index) => prediction.taken[index].map(([label, share]) =>
    ({index, label, share, pixels: Math.round(share / 100 * compared.pixels[index])})));
  found.sort((a, b) => b.pixels - a.pixels);
  const rows = found.slice(0, Number(at("confusions-shown").value)).map(({index, label, share, pixels}) => {
    const row = make("tr"), heading = make("th", className(index), {className: "name", scope: "row"});
    const place = prediction.confusions[`${index}>${label}`];
    const bar = make("i", "", {className: "bar"});
    bar.style.width = `${8 * pixels / found[0].pixels}rem`;
    row.append(heading, cell(undefined, "", link(className(label), place)),
      cell(pixels, pixels.toLocaleString("en")), cell(share, `${share.toFixed(1)}%`), cell(undefined, "", bar));
    row.cells[1].className = "words";
    return row;
  });
  at("what-for-what").tBodies[0].replaceChildren(...rows);
}

if (compared && at("first")) {
  for (const id of ["first", "second", "confused"]) {
    at(id).append(...compared.predictions.map((prediction, place) => new Option(prediction.title, place)));
  }
  [at("first").value, at("second").value] = compared.chosen;
  at("confused").value = compared.chosen[0];
  for (const id of ["first", "second"]) at(id).onchange = compareClasses;
  for (const id of ["confused", "confusions-shown"]) at(id).onchange = showConfusions;
  at("classes-with").oninput = filterClasses;
  compareClasses();
  showConfusions();
}
document.documentElement.dataset.ready = "";
