// Plays the videos held in the page. All of its state is in the address after "#", so that a view can be linked to.
"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const at = id => document.getElementById(id);
const [picture, canvas] = [at("picture").getContext("2d"), at("picture")];
const RIGHT = [46, 160, 67], WRONG = [219, 68, 55], VOID = [128, 128, 128], FIRST = [59, 130, 196], SECOND = [217, 119, 6];
const colours = content.colours.map(hex => [1, 3, 5].map(start => parseInt(hex.slice(start, start + 2), 16)));

// ---- what can be shown on a side: the image, labels over it, or where labels differ from the truth
const sources = [{name: "image", title: "Image"}, {name: "truth", title: "Truth"}];
content.predictions.forEach((title, member) => {
  sources.push({name: `prediction-${member}`, title, member});
  sources.push({name: `errors-${member}`, title: `Errors of ${title}`, member, errors: true});
});
if (content.predictions.length > 1) sources.push({name: "difference", title: "Difference of two", difference: true});
const source = name => sources.find(one => one.name === name) || sources[0];
const membersOf = side => source(side).difference ? [state.first, state.second] : [source(side).member];
const last = content.predictions.length - 1;
const state = {video: 0, frame: 0, left: "truth", right: `prediction-${last}`, alpha: 60, split: 50, zoom: 1, solo: null,
  first: Math.max(0, last - 1), second: Math.max(0, last)};
let hovered = null, timer = null, drawn = 0;

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const video = content.videos.findIndex(one => one.name === given.get("video"));
  if (video >= 0) state.video = video;
  const frame = content.videos[state.video].frames.indexOf(given.get("frame"));
  state.frame = Math.max(0, frame);
  for (const side of ["left", "right"]) if (given.has(side)) state[side] = source(given.get(side)).name;
  for (const [key, most] of [["alpha", 100], ["split", 100], ["zoom", 4], ["first", last], ["second", last]]) {
    const value = Number(given.get(key));
    if (given.has(key) && value >= 0 && value <= most) state[key] = value;
  }
  const solo = content.classes.indexOf(given.get("solo"));
  state.solo = solo >= 0 ? solo : null;
}

function writeAddress() {
  const video = content.videos[state.video];
  const values = {...state, video: video.name, frame: video.frames[state.frame]};
  if (state.solo === null) delete values.solo; else values.solo = content.classes[state.solo];
  history.replaceState(null, "", "#" + new URLSearchParams(values));
}

// ---- decoding, kept once it is done
const decoded = new Map();
async function pixels(url) {
  if (!decoded.has(url)) {
    const image = new Image();
    image.src = url;
    await image.decode();
    const aside = document.createElement("canvas");
    [aside.width, aside.height] = [image.naturalWidth, image.naturalHeight];
    const context = aside.getContext("2d", {willReadFrequently: true});
    context.drawImage(image, 0, 0);
    decoded.set(url, context.getImageData(0, 0, aside.width, aside.height));
  }
  return decoded.get(url);
}
const labelAt = (map, pixel) => {
  const value = map.data[4 * pixel] + (content.classes.length > 255 ? 256 * map.data[4 * pixel + 1] : 0);
  return value === content.ignore ? null : value;
};

async function readFrame(video, frame) {
  const held = content.videos[video];
  const [image, truth, ...labels] = await Promise.all([
    pixels(held.images[frame]),
    held.truth[frame] ? pixels(held.truth[frame]) : null,
    ...held.labels.map(maps => pixels(maps[frame])),
  ]);
  return {image, truth, labels};
}

// ---- drawing
function paint(name, now) {
  const {image, truth, labels} = now, chosen = source(name);
  const member = chosen.difference ? state.first : chosen.member, other = chosen.difference && labels[state.second];
  const map = chosen.name === "truth" ? truth : member === undefined ? null : labels[member];
  const result = new ImageData(new Uint8ClampedArray(image.data), image.width, image.height);
  if (!map) return result;
  const alone = hovered ?? state.solo, alpha = state.alpha / 100, data = result.data;
  for (let pixel = 0; pixel < image.width * image.height; pixel++) {
    const label = labelAt(map, pixel), from = 4 * pixel;
    let colour = label === null ? VOID : colours[label], weight = alpha;
    if (other) {
      const second = labelAt(other, pixel), right = truth && labelAt(truth, pixel);
      if (second === label || (truth && right === null)) weight = 0;
      colour = !truth ? SECOND : right === label ? FIRST : right === second ? SECOND : VOID;
      if (alone !== null && ![label, second, right].includes(alone)) weight = 0;
    } else if (chosen.errors) {
      const right = truth && labelAt(truth, pixel);
      if (!truth || right === null) colour = VOID;
      else colour = right === label ? RIGHT : WRONG;
      if (alone !== null && label !== alone && right !== alone) weight = 0;
    } else if (alone !== null && label !== alone) weight = 0;
    if (alone !== null && weight === 0) {  // what is not shown alone turns grey
      const grey = (data[from] + data[from + 1] + data[from + 2]) / 3;
      for (let band = 0; band < 3; band++) data[from + band] = 0.5 * grey + 60;
    } else for (let band = 0; band < 3; band++) {
      data[from + band] = (1 - weight) * data[from + band] + weight * colour[band];
    }
  }
  return result;
}

let now = null, listDue = false;
async function draw({list = true} = {}) {
  const turn = ++drawn;
  listDue ||= list;  // a draw that is overtaken leaves its list to the next
  const read = await readFrame(state.video, state.frame);
  if (turn !== drawn) return;  // another frame was requested meanwhile
  now = read;
  const {width, height} = now.image;
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const edge = Math.round(width * state.split / 100);
  picture.putImageData(paint(state.left, now), 0, 0);
  if (edge < width) picture.putImageData(paint(state.right, now), 0, 0, edge, 0, width - edge, height);
  at("line").style.left = `${state.split}%`;
  at("view").style.width = `${100 * state.zoom}%`;
  showControls();
  if (listDue) showLegend();
  listDue = false;
  canvas.dataset.ready = `${state.video}/${state.frame}`;
}

function showControls() {
  const video = content.videos[state.video];
  for (const key of ["video", "left", "right", "alpha", "split", "zoom", "frame", "first", "second"]) at(key).value = state[key];
  at("pair").hidden = ![state.left, state.right].includes("difference");
  at("frame").max = video.frames.length - 1;
  const scores = content.predictions.map((title, member) => {
    const score = video.scores[member][state.frame];
    return [state.left, state.right].some(side => membersOf(side).includes(member)) && score !== null ? `${title} ${score.toFixed(1)}` : "";
  }).filter(Boolean);
  at("place").textContent = `${video.frames[state.frame]}, ${state.frame + 1} of ${video.frames.length}` +
    (scores.length ? ` · mIoU ${scores.join(", ")}` : "");
  writeAddress();
}

function showLegend() {
  const counts = new Map();
  for (const side of [state.left, state.right]) {
    const maps = side === "truth" ? [now.truth] : membersOf(side).map(member => now.labels[member]);
    for (const map of maps) for (let pixel = 0; map && pixel < map.width * map.height; pixel++) {
      const label = labelAt(map, pixel);
      if (label !== null) counts.set(label, (counts.get(label) || 0) + 1);
    }
  }
  if (state.solo !== null && !counts.has(state.solo)) counts.set(state.solo, 0);
  at("legend").replaceChildren(...[...counts].sort((a, b) => b[1] - a[1]).map(([label]) => {
    const button = document.createElement("button"), chip = document.createElement("i");
    chip.style.background = content.colours[label];
    button.append(chip, content.classes[label]);
    button.setAttribute("aria-pressed", state.solo === label);
    button.onclick = () => { state.solo = state.solo === label ? null : label; draw(); };
    button.onpointerenter = () => { hovered = label; draw({list: false}); };
    button.onpointerleave = () => { hovered = null; draw({list: false}); };
    return button;
  }));
}

// ---- the lists: of the prediction on the right, or else the left, or else the last
function showLists() {
  const video = content.videos[state.video];
  const member = source(state.right).member ?? source(state.left).member ?? Math.max(0, last);
  const fill = (id, items, none) => at(id).replaceChildren(...(items.length ? items : [[none, null]]).map(([text, go]) => {
    const item = document.createElement("li"), button = document.createElement(go ? "button" : "span");
    button.textContent = text;
    if (go) button.onclick = () => { go(); draw(); };
    item.append(button);
    return item;
  }));
  const ranked = (values, sign) => values.map((value, frame) => [value, frame]).filter(([value]) => value !== null && value !== undefined)
    .sort((a, b) => sign * (a[0] - b[0]) || a[1] - b[1]).slice(0, 5);
  const frames = (pairs, unit) => pairs.map(([value, frame]) =>
    [`${video.frames[frame]}: ${value.toFixed(1)}${unit}`, () => { state.frame = frame; }]);
  if (last < 0) return;
  fill("worst", frames(ranked(video.scores[member], 1), " mIoU"), "no truth to compare with");
  fill("flicker", frames(ranked(video.flicker[member], -1), "% of its pixels"), "one frame only");
  const classes = Object.entries(video.iou[member]).sort((a, b) => a[1] - b[1]).slice(0, 5);
  fill("classes", classes.map(([label, value]) =>
    [`${content.classes[label]}: ${value.toFixed(1)} IoU`, () => { state.solo = Number(label); }]), "no truth to compare with");
}

// ---- controls
function step(by) {
  state.frame = Math.min(Math.max(0, state.frame + by), content.videos[state.video].frames.length - 1);
  draw();
}
function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => {
    state.frame = (state.frame + 1) % content.videos[state.video].frames.length;
    draw();
  }, 150) : null;
  at("play").setAttribute("aria-pressed", on);
  at("play").textContent = on ? "Pause" : "Play";
}
const options = (id, names, values) => at(id).replaceChildren(...names.map((name, index) => new Option(name, values[index])));
options("video", content.videos.map(video => video.name), content.videos.map((_, index) => index));
for (const side of ["left", "right"]) options(side, sources.map(one => one.title), sources.map(one => one.name));
at("video").onchange = () => { state.video = Number(at("video").value); state.frame = 0; state.solo = null; showLists(); draw(); };
for (const side of ["left", "right"]) at(side).onchange = () => { state[side] = at(side).value; showLists(); draw(); };
for (const side of ["first", "second"]) {
  options(side, content.predictions, content.predictions.map((_, member) => member));
  at(side).onchange = () => { state[side] = Number(at(side).value); draw(); };
}
for (const key of ["alpha", "split", "zoom", "frame"]) at(key).oninput = () => {
  state[key] = Number(at(key).value);
  draw({list: key === "frame"});
};
at("play").onclick = () => play(timer === null);
addEventListener("keydown", event => {
  if (event.target.matches("select, input, button, summary, a") && !["+", "-"].includes(event.key)) return;
  const action = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => step(-Infinity), End: () => step(Infinity),
    " ": () => play(timer === null),
    "+": () => { state.zoom = Math.min(4, state.zoom + 1); draw(); }, "-": () => { state.zoom = Math.max(1, state.zoom - 1); draw(); },
  }[event.key];
  if (action && !event.ctrlKey && !event.metaKey) { event.preventDefault(); action(); }
});
const place = event => {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map(part => Math.min(Math.max(part, 0), 1));
};
canvas.onpointerdown = event => { canvas.setPointerCapture(event.pointerId); canvas.onpointermove(event); };
canvas.onpointermove = event => {
  const [x, y] = place(event);
  if (event.buttons & 1) { state.split = Math.round(100 * x); draw({list: false}); }
  if (!now) return;
  const pixel = Math.min(now.image.height - 1, Math.floor(y * now.image.height)) * now.image.width + Math.min(now.image.width - 1, Math.floor(x * now.image.width));
  const name = map => { const label = labelAt(map, pixel); return label === null ? "no class" : content.classes[label]; };
  at("under").textContent = [now.truth && `truth: ${name(now.truth)}`, ...now.labels.map((map, member) => `${content.predictions[member]}: ${name(map)}`)]
    .filter(Boolean).join(" · ");
};
canvas.onpointerleave = () => { at("under").textContent = "Point at the picture to read its classes."; };
addEventListener("hashchange", () => { readAddress(); showLists(); draw(); });

if (content.videos.length) {
  readAddress();
  showLists();
  draw();
} else at("under").textContent = "The report shows no video.";
