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

const share = ([index, , pixels]) => 100 * pixels / compared.pixels[index];
const placeOf = (prediction, [index, label]) => prediction.confusions[`${index}>${label}`];

function takenFor(prediction, index) {
  const parts = prediction.taken.filter(found => found[0] === index).slice(0, 3).map(found =>
    link(`${className(found[1])} ${share(found).toFixed(1)}%`, placeOf(prediction, found)));
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
  const found = [...prediction.taken].sort((a, b) => b[2] - a[2]);
  const rows = found.slice(0, Number(at("confusions-shown").value)).map(one => {
    const [index, label, pixels] = one;
    const row = make("tr"), heading = make("th", className(index), {className: "name", scope: "row"});
    const bar = make("i", "", {className: "bar"});
    bar.style.width = `${8 * pixels / found[0][2]}rem`;
    row.append(heading, cell(undefined, "", link(className(label), placeOf(prediction, one))),
      cell(pixels, pixels.toLocaleString("en")), cell(share(one), `${share(one).toFixed(1)}%`), cell(undefined, "", bar));
    row.cells[1].className = "words";
    return row;
  });
  at("what-for-what").tBodies[0].replaceChildren(...rows);
  showMatrix();
}

// ---- the confusions as a matrix: drawn, for 124 x 124 elements are slow; as a table only where one asks for it
const matrix = {rows: [], columns: [], found: new Map(), row: -1, column: -1};
function showMatrix() {
  const prediction = compared.predictions[at("confused").value], canvas = at("matrix");
  const ids = compared.classes.map((_, index) => index).sort((a, b) => compared.pixels[b] - compared.pixels[a]);
  matrix.rows = ids.filter(index => compared.pixels[index]);
  const used = new Set([...matrix.rows, ...prediction.taken.map(([, label]) => label)]);
  matrix.columns = [...ids, -1].filter(index => used.has(index));
  matrix.found = new Map(prediction.taken.map(found => [`${found[0]}>${found[1]}`, found]));
  const missed = new Map();
  for (const found of prediction.taken) missed.set(found[0], (missed.get(found[0]) || 0) + share(found));

  const unit = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16, scale = devicePixelRatio || 1;
  const side = Math.floor(unit * Math.max(11, Math.min(26, 800 / matrix.columns.length))), room = 118 * unit;
  const [width, height] = [room + side * matrix.columns.length, room + side * matrix.rows.length];
  Object.assign(matrix, {side, room, row: -1, column: -1});
  [canvas.width, canvas.height] = [width * scale, height * scale];
  [canvas.style.width, canvas.style.height] = [`${width}px`, `${height}px`];
  const pen = canvas.getContext("2d"), colour = name => getComputedStyle(canvas).getPropertyValue(`--${name}`);
  pen.scale(scale, scale);
  pen.font = `${Math.min(12 * unit, side)}px sans-serif`;
  pen.textBaseline = "middle";
  pen.fillStyle = colour("ink");
  const name = index => { const text = className(index); return text.length > 18 ? `${text.slice(0, 17)}\u2026` : text; };
  matrix.rows.forEach((index, row) => {
    pen.textAlign = "right";
    pen.fillText(name(index), room - 5, room + side * (row + .5), room - 8);
  });
  pen.textAlign = "left";
  matrix.columns.forEach((index, column) => {
    pen.save();
    pen.translate(room + side * (column + .5), room - 5);
    pen.rotate(-Math.PI / 2);
    pen.fillText(name(index), 0, 0, room - 8);
    pen.restore();
  });
  matrix.rows.forEach((index, row) => matrix.columns.forEach((label, column) => {
    const found = matrix.found.get(`${index}>${label}`), right = index === label;
    const part = right ? 1 - (missed.get(index) || 0) / 100 : found ? share(found) / 100 : 0;
    pen.globalAlpha = 1;
    pen.fillStyle = colour("wash");
    pen.fillRect(room + side * column, room + side * row, side - 1, side - 1);
    pen.globalAlpha = Math.sqrt(Math.max(0, part));  // a few percent are seen, too
    pen.fillStyle = colour(right ? "muted" : "accent");
    pen.fillRect(room + side * column, room + side * row, side - 1, side - 1);
  }));
  matrix.right = index => 100 - (missed.get(index) || 0);
  at("matrix-mark").hidden = true;
  at("matrix-cell").textContent = "Point at a cell, or move with the arrow keys.";
  matrix.listed = false;
  listMatrix();
}
function listMatrix() {
  const details = at("matrix-text"), table = details.querySelector("table");
  if (!details.open || matrix.listed) return;
  matrix.listed = true;
  const prediction = compared.predictions[at("confused").value], head = make("tr");
  head.append(make("td"), ...matrix.columns.map(label => make("th", className(label), {scope: "col"})));
  const rows = matrix.rows.map(index => {
    const row = make("tr");
    row.append(make("th", className(index), {className: "name", scope: "row"}), ...matrix.columns.map(label => {
      const found = matrix.found.get(`${index}>${label}`), text = value => value.toFixed(1);
      if (index === label) return cell(undefined, "", link(text(matrix.right(index)), prediction.places[index]));
      return found ? cell(undefined, "", link(text(share(found)), placeOf(prediction, found))) : make("td");
    }));
    return row;
  });
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...rows);
}
function matrixPlace(row = matrix.row, column = matrix.column) {
  const [index, label] = [matrix.rows[row], matrix.columns[column]];
  const prediction = compared.predictions[at("confused").value];
  if (index === undefined || label === undefined) return undefined;
  return index === label ? prediction.places[index] : placeOf(prediction, [index, label]);
}
function pointAt(row, column) {
  const [index, label] = [matrix.rows[row], matrix.columns[column]], mark = at("matrix-mark");
  mark.hidden = index === undefined || label === undefined;
  if (mark.hidden) return;
  [matrix.row, matrix.column] = [row, column];
  const [left, top] = [column, row].map(place => `${matrix.room + matrix.side * place - 2}px`), size = `${matrix.side + 3}px`;
  Object.assign(mark.style, {left, top, width: size, height: size});
  const found = matrix.found.get(`${index}>${label}`), place = matrixPlace();
  at("matrix").style.cursor = place === undefined ? "default" : "pointer";
  const what = index === label ? `${className(index)} is right in ${matrix.right(index).toFixed(1)}% of its pixels`
    : `${className(index)} taken for ${className(label)}: ` +
      (found ? `${share(found).toFixed(1)}% of it, ${found[2].toLocaleString("en")} pixels` : "less than 0.1% of it");
  at("matrix-cell").textContent = what + (place === undefined ? "" : "; a click, or Enter, shows it in the videos");
}
function useMatrix(canvas) {
  const open = () => { if (!at("matrix-mark").hidden && matrixPlace() !== undefined) location.href = `viewer.html#${matrixPlace()}`; };
  canvas.onpointermove = event => {
    const box = canvas.getBoundingClientRect();
    pointAt(Math.floor((event.clientY - box.top - matrix.room) / matrix.side), Math.floor((event.clientX - box.left - matrix.room) / matrix.side));
  };
  canvas.onclick = event => { canvas.onpointermove(event); open(); };
  canvas.onfocus = () => {  // the first that leads to a frame, for Enter
    if (matrix.row >= 0 || !canvas.matches(":focus-visible")) return;
    const leads = row => matrix.columns.findIndex((_, column) => matrixPlace(row, column) !== undefined);
    const row = Math.max(0, matrix.rows.findIndex((_, row) => leads(row) >= 0));
    pointAt(row, Math.max(0, leads(row)));
  };
  canvas.onkeydown = event => {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); }
    if (!step) return;
    event.preventDefault();
    const keep = (value, most) => Math.max(0, Math.min(most - 1, value));
    pointAt(keep(matrix.row + step[0], matrix.rows.length), keep(matrix.column + step[1], matrix.columns.length));
    at("matrix-mark").scrollIntoView({block: "nearest", inline: "nearest"});
  };
  at("matrix-text").ontoggle = listMatrix;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showMatrix);
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
  useMatrix(at("matrix"));
  compareClasses();
  showConfusions();
}
document.documentElement.dataset.ready = "";
