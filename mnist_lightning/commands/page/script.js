// The page: strokes go on the board, the board to the server, its answer beside the board.

const $ = (id) => document.getElementById(id);
const SHEET = 196; // pixels a side of the picture that is sent: seven for each of the network's
const STROKE = 1 / 15; // of the board's side; a digit of MNIST is about eight strokes high
const NOTE = $("note").textContent;
const main = document.querySelector("main"); // busy while the server has a question

const board = $("board").getContext("2d");
const sheet = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
sheet.canvas.width = sheet.canvas.height = SHEET;

// ---- What is on the board ----

// All that was done, in order: {points}, a stroke; {picture}, one that was loaded; {}, a clearing.
let items = [];
let stroke = null; // the one that is being drawn
const example = { points: [] }; // the digit that draws itself, until anything else is done

function content() {
  const start = items.findLastIndex((item) => !item.points);
  const strokes = items.slice(start + 1);
  // One goes on drawing on a digit of MNIST; a stroke on a photograph begins a new drawing.
  const picture = items[start]?.picture;
  return { strokes, picture: strokes.length && !picture?.mnist ? undefined : picture };
}

function redraw() {
  const { strokes, picture } = content();
  for (const context of [board, sheet]) {
    const side = context.canvas.width;
    context.setTransform(side, 0, 0, side, 0, 0);
    context.fillRect(0, 0, 1, 1);
    context.strokeStyle = "white";
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = STROKE;
    if (picture?.bitmap) {
      const { width, height } = picture.bitmap;
      const scale = 1 / Math.max(width, height);
      const [w, h] = [width * scale, height * scale];
      context.imageSmoothingEnabled = !picture.mnist;
      context.drawImage(picture.bitmap, (1 - w) / 2, (1 - h) / 2, w, h);
    }
    for (const { points } of strokes) ink(context, points, 0);
  }
  document.body.classList.toggle("example", items.includes(example));
  document.body.classList.toggle("started", Boolean(picture || strokes.length) && !items.includes(example));
}

// Draws a stroke from its point number `from` on, rounded through the midpoints of its points.
function ink(context, points, from) {
  const middle = (i) => points[i].map((value, axis) => (value + points[Math.max(i - 1, 0)][axis]) / 2);
  context.beginPath();
  context.moveTo(...middle(from));
  for (let i = from + 1; i < points.length; i++) {
    context.quadraticCurveTo(...points[i - 1], ...middle(i));
  }
  const [x, y] = points.at(-1);
  context.lineTo(x + 1e-4, y); // to the very same place would draw no dot
  context.stroke();
}

function change(item) {
  items = items.filter((each) => each !== example);
  chosen = "";
  if (item !== stroke) stroke = null; // it may be drawn still
  if (item) items.push(item);
  else items.pop();
  note();
  redraw();
  ask();
}

const undo = () => change();
const clear = () => items.length && change({});

// ---- Drawing ----

const canvas = board.canvas;

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function extend({ points }, more) {
  const from = points.length - 1;
  chosen = "";
  points.push(...more);
  for (const context of [board, sheet]) ink(context, points, from);
  ask();
}

canvas.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button !== 0) return;
  event.preventDefault(); // selects no text
  canvas.setPointerCapture(event.pointerId);
  stroke = { points: [place(event)] };
  change(stroke);
});

// Some browsers hold pointermove back until the next frame, and have another event that comes at once.
const MOVE = "onpointerrawupdate" in canvas ? "pointerrawupdate" : "pointermove";

canvas.addEventListener(MOVE, (event) => {
  if (!stroke || !event.isPrimary) return;
  const events = event.getCoalescedEvents?.() ?? [];
  extend(stroke, (events.length ? events : [event]).map(place));
});

for (const type of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(type, (event) => event.isPrimary && (stroke = null));
}

new ResizeObserver(() => {
  canvas.width = canvas.height = Math.round(canvas.clientWidth * devicePixelRatio);
  redraw();
}).observe(canvas);

// ---- At first a 3 draws itself, two arcs in a second, unless motion is unwelcome ----

function arc(y, radius, from, to) {
  return Array.from({ length: 30 }, (_, i) => {
    const angle = ((from + ((to - from) * i) / 29) * Math.PI) / 180;
    return [0.47 + 1.1 * radius * Math.cos(angle), y + radius * Math.sin(angle)];
  });
}

const THREE = [...arc(0.335, 0.135, -155, 90), ...arc(0.63, 0.16, -90, 155)];

function drawExample(time, begin = time) {
  if (!items.includes(example)) return;
  const { points } = example;
  const more = THREE.slice(points.length, ((time - begin) / 1000) * THREE.length);
  if (more.length) extend(example, more);
  if (points.length < THREE.length) requestAnimationFrame((now) => drawExample(now, begin));
}

// ---- Asking: one question at a time, and the next is about what is on the board by then ----

let chosen = ""; // the place of a digit that was clicked, as a query
let changed = false;

async function ask() {
  changed = true;
  if (main.ariaBusy === "true") return;
  main.ariaBusy = "true";
  while (changed) {
    changed = false;
    const { strokes, picture } = content();
    if (!picture && !strokes.length) {
      show(null);
      continue;
    }
    try {
      const answer = await (strokes.length
        ? see(png(), chosen || at(strokes.at(-1)))
        : see(picture.blob, chosen || picture.query));
      if (answer.picture) {
        picture.bitmap = await createImageBitmap(new Blob([bytes(answer.picture)]));
        picture.query = "";
        redraw();
      }
      if (!changed || content().strokes.length) show(answer);
      const text = `${picture?.caption}, the first of ${answer.pages} pages`;
      if (!strokes.length && answer.pages > 1 && !changed) tell(text);
    } catch (error) {
      if (strokes.length && error.status === 400) show(null); // a dot is not a digit yet
      else tell(strokes.length ? error.message : `${picture.caption}: ${error.message}`, true);
      if (strokes.length) continue;
      if (![400, 413].includes(error.status)) { // not the picture's fault: it stays
        show(null);
        continue;
      }
      items = items.filter((item) => item.picture !== picture); // what it replaced comes back
      redraw();
      changed = true;
    }
  }
  main.ariaBusy = "false";
}

// Not `toBlob`, which waits until the browser has nothing else to do.
const png = () => bytes(sheet.canvas.toDataURL().split(",")[1]);

// The middle of a stroke, on the sheet: the digit that is there was written last.
function at({ points }) {
  const middle = (axis) => {
    const values = points.map((point) => point[axis]);
    return (SHEET / 2) * (Math.min(...values) + Math.max(...values));
  };
  return `?at=${middle(0).toFixed()},${middle(1).toFixed()}`;
}

async function see(body, query) {
  const response = await get(`see${query}`, { method: "POST", body });
  return response.json();
}

async function get(path, options) {
  const response = await fetch(path, { signal: AbortSignal.timeout(20_000), ...options }).catch(() => {
    throw new Error("The server does not answer. Is it still running?");
  });
  if (response.status === 503) {
    await new Promise((resolve) => setTimeout(resolve, 500)); // others draw too
    return get(path, options);
  }
  if (!response.ok) {
    const { error } = await response.json();
    throw Object.assign(new Error(error), { status: response.status });
  }
  return response;
}

// ---- Showing the answer ----

const count = (number) => number.toLocaleString("en");
// As text.py writes it: no answer looks certain, and nothing possible impossible.
const percent = (share) =>
  share > 0.999 ? ">99.9%" : share < 0.001 ? "<0.1%" : `${(100 * share).toFixed(1)}%`;
// The first is the faster, the second for older browsers.
const bytes = (base64) =>
  Uint8Array.fromBase64?.(base64) ?? Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

// A color for each byte, as one number for all four channels: plain gray; and for feature maps from
// black over the accent color to white, with the quiet ones raised so that they are seen too.
const palette = (color) =>
  new Uint32Array(Uint8ClampedArray.from({ length: 1024 }, (_, i) => [...color(i >> 2), 255][i % 4]).buffer);
const GRAY = palette((value) => [value, value, value]);
const STOPS = [[0, 0, 0], [150, 48, 10], [255, 139, 74], [255, 246, 236]];
const HEAT = palette((value) => {
  const at = Math.min((value / 255) ** 0.75 * 3, 2.999);
  const [low, high] = STOPS.slice(at | 0);
  return low.map((part, i) => part + (high[i] - part) * (at % 1));
});

// Paints square images of `size` pixels a side, eight in a row.
function paint(canvas, pixels, size, colors) {
  const number = pixels.length / size ** 2;
  const step = size + 2;
  const [width, height] = [Math.min(number, 8) * step - 2, Math.ceil(number / 8) * step - 2];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let i = 0; i < number; i++) {
    const image = new ImageData(size, size);
    const color = new Uint32Array(image.data.buffer);
    for (let at = 0; at < color.length; at++) color[at] = colors[pixels[i * size ** 2 + at]];
    context.putImageData(image, (i % 8) * step, (i >> 3) * step);
  }
}

// The feature maps of the newest answer; before the first one the layers that the server tells of.
let layers = [];

let spoken = 0;
let shown = null; // the answer

function show(answer) {
  shown = answer;
  document.body.classList.toggle("idle", !answer);
  const last = answer?.digits[answer.shown]; // whose probabilities and maps are shown
  const text = answer?.text ?? "?";
  const several = answer?.digits.length > 1;
  const words = last?.is_digit ? percent(last.probability) : "No digit";
  showBoxes(several ? answer : { digits: [] });
  if ($("digit").textContent !== text) {
    $("digit").textContent = text;
    const lines = text.split("\n");
    const longest = Math.max(...lines.map((line) => line.length), 2 * lines.length);
    $("digit").style.setProperty("--length", Math.min(longest, 12));
    $("digit").classList.toggle("several", lines.length > 1 || longest > 12);
    $("digit").classList.remove("new");
    void $("digit").offsetWidth; // starts the animation anew
    $("digit").classList.add("new");
  }
  $("probability").textContent = !answer ? "No digit yet" : several ? `The ${last.is_digit ? last.digit : "?"}: ${words}` : words;
  [...$("bars").children].forEach((bar, i) => {
    const share = last?.probabilities[i] ?? 0;
    bar.classList.toggle("first", Boolean(last?.is_digit) && i === last.digit);
    bar.style.setProperty("--share", share);
    bar.lastChild.textContent = answer ? percent(share) : "";
  });
  if (answer) layers = answer.layers;
  paint($("image"), answer ? bytes(answer.image) : new Uint8Array(784), 28, GRAY);
  for (const name of ["relu1", "relu2"]) { // a small network's second one has no maps
    $(name).closest("figure").hidden = !layers.some((layer) => layer.name === name);
  }
  for (const { name, count, size, pixels } of layers) {
    const maps = answer ? bytes(pixels) : new Uint8Array(count * size ** 2);
    paint($(name), maps, size, HEAT);
    $(`${name}-size`).textContent = `${count} feature maps of ${size} × ${size}`;
  }
  clearTimeout(spoken); // a screen reader hears the answer once it rests
  spoken = setTimeout(() => {
    $("spoken").textContent = !answer ? "" : text === "?" ? words : several ? text : `${text}, ${words}`;
  }, 500);
}

// Each digit of a number has its answer at its place.
function showBoxes({ digits, size, shown: last }) {
  const boxes = digits.map(({ digit, probability, is_digit, box }, i) => {
    const scale = 100 / Math.max(...size);
    const [left, top, right, bottom] = box.map((side, axis) => 50 + scale * (side - size[axis % 2] / 2));
    const item = document.createElement("li");
    const label = document.createElement("span");
    label.append(is_digit ? digit : "?");
    if (is_digit && right - left > 12) {
      label.append(Object.assign(document.createElement("small"), { textContent: percent(probability) }));
    }
    label.onclick = () => {
      chosen = middle(box);
      ask();
    };
    item.append(label);
    item.classList.toggle("first", i === last);
    item.classList.toggle("high", top < 8); // no room above it
    for (const [side, value] of Object.entries({ left, top, width: right - left, height: bottom - top })) {
      item.style[side] = `${value}%`;
    }
    return item;
  });
  $("boxes").replaceChildren(...boxes);
}

function note() {
  const { strokes, picture } = content();
  tell(strokes.length ? NOTE : (picture?.caption ?? NOTE));
}

function tell(text, wrong = false) {
  $("note").textContent = text;
  $("note").classList.toggle("wrong", wrong);
}

// ---- Teaching: what the shown digit is, if the server keeps what it is told ----

const middle = ([left, top, right, bottom]) => `?at=${(left + right) / 2},${(top + bottom) / 2}`;

async function teach(digit) {
  const { strokes, picture } = content();
  if ($("kept").hidden || !shown || items.includes(example) || !(strokes.length || picture)) return;
  if (picture?.mnist) return tell("This is one of MNIST’s test digits, which nothing may learn from.", true);
  const query = `${middle(shown.digits[shown.shown].box)}&digit=${digit}`;
  try {
    const response = await get(`keep${query}`, { method: "POST", body: strokes.length ? png() : picture.blob });
    showKept((await response.json()).kept);
    tell(`Kept as a ${digit}.`);
  } catch (error) {
    tell(error.message, true);
  }
}

function showKept(kept) {
  $("kept").hidden = !kept;
  document.body.classList.toggle("teaching", Boolean(kept));
  if (!kept) return;
  $("number").textContent = `${count(kept.count)} are kept, of ${count(kept.most)} at most.`;
  $("command").textContent = kept.command;
}

// ---- Pictures, and MNIST's test digits ----

async function load(blob, caption, mnist = false) {
  stopFilming();
  if (blob.size > 10_000_000) return tell(`${caption}: a picture may have 10 megabytes at most`, true);
  const bitmap = await createImageBitmap(blob).catch(() => null);
  const query = bitmap ? "" : "?picture"; // of TIFF, for one, the server makes what a browser can show
  change({ picture: { blob, bitmap, query, caption, mnist } });
}

const loadFile = (file) =>
  file ? load(file, file.name || "The picture") : tell("That is not a picture’s file.", true);

let wanted = 0;

async function loadDigit({ index, label }) {
  const number = ++wanted;
  const blob = await (await get(`digits/${index}.png`)).blob();
  if (number === wanted) load(blob, `Test image ${count(index)}, labeled ${label}`, true);
}

function tile(digit) {
  const { index, label, read } = digit;
  const item = document.createElement("li");
  const button = document.createElement("button");
  const image = Object.assign(new Image(28, 28), { src: `digits/${index}.png`, alt: "", draggable: false });
  button.append(image, read === undefined ? label : `${label} → ${read}`);
  button.ariaLabel = read === undefined ? `a test ${label}` : `a test ${label}, read as ${read}`;
  button.onclick = () => loadDigit(digit).catch((error) => tell(error.message, true));
  item.append(button);
  return item;
}

// ---- The camera: where the page may not use it, as on a phone by http, the phone's own ----

async function film() {
  if (!navigator.mediaDevices) return $("photo").click();
  let stream = null;
  try {
    const video = { facingMode: "environment", width: { ideal: 1280 } };
    stream = await navigator.mediaDevices.getUserMedia({ video });
    stopFilming();
    $("video").srcObject = stream;
    await $("video").play();
  } catch (error) {
    if ($("video").srcObject !== stream) return; // a second click began another
    stopFilming();
    const refused = error.name === "NotAllowedError";
    return tell(refused ? "The browser does not allow this page the camera." : "There is no camera to use.", true);
  }
  setFilming(true);
  tell("Bring the digits into the square.");
  $("take").focus();
}

function setFilming(filming) {
  $("video").hidden = $("shutter").hidden = !filming;
  $("tools").hidden = filming;
}

function stopFilming() {
  if (!$("video").srcObject) return;
  for (const track of $("video").srcObject.getTracks()) track.stop();
  $("video").srcObject = null;
  setFilming(false);
  note();
  $("camera").focus();
}

// Takes the square that is seen.
async function take() {
  const { videoWidth: width, videoHeight: height } = $("video");
  const side = Math.min(width, height);
  const picture = new OffscreenCanvas(side, side);
  picture.getContext("2d").drawImage($("video"), (side - width) / 2, (side - height) / 2);
  load(await picture.convertToBlob({ type: "image/jpeg", quality: 0.95 }), "The camera’s picture");
}

let polling = 0;

const poll = () => fetchDigits().catch(() => (polling = setTimeout(poll, 5000)));

async function fetchDigits(anew = false) {
  clearTimeout(polling);
  const { digits, mistakes, errors, tested, total, layers: sizes, kept } = await (await get("digits")).json();
  showKept(kept);
  if (!layers.length) {
    layers = sizes;
    show(null); // black maps of their sizes, so that the first answer moves nothing
  }
  if (anew || !$("samples").children.length) $("samples").replaceChildren(...digits.map(tile));
  if (anew || $("mistakes").children.length < mistakes.length) $("mistakes").replaceChildren(...mistakes.map(tile));
  $("tested").textContent = `${count(errors)} of ${count(tested)}`;
  if (tested < total) polling = setTimeout(poll, 1000);
}

// ---- Buttons, keys, files ----

$("bars").append(
  ...Array.from({ length: 10 }, (_, digit) => {
    const bar = document.createElement("li");
    bar.append(digit, document.createElement("i"), document.createElement("span"));
    return bar;
  }),
);
show(null);
poll();
if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
  example.points.push(THREE[0]);
  items.push(example);
  requestAnimationFrame(drawExample);
}

$("bars").onclick = ({ target }) => {
  const bar = target.closest("li"); // none between two
  if (bar) teach([...$("bars").children].indexOf(bar));
};
$("undo").onclick = undo;
$("clear").onclick = clear;
$("open").onclick = () => $("file").click();
$("camera").onclick = film;
$("take").onclick = take;
$("stop").onclick = stopFilming;
for (const input of [$("file"), $("photo")]) {
  input.onchange = () => {
    loadFile(input.files[0]);
    input.value = ""; // the same file may be chosen again
  };
}
$("others").onclick = () => fetchDigits(true).catch((error) => {
  tell(error.message, true);
  polling = setTimeout(poll, 5000);
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") $("video").hidden ? clear() : stopFilming();
  else if (/^[0-9]$/.test(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey) event.repeat || teach(event.key);
  else if (event.key === "z" && (event.ctrlKey || event.metaKey) && !event.shiftKey) {
    event.preventDefault();
    undo();
  }
});

document.addEventListener("paste", (event) => loadFile(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  loadFile(event.dataTransfer.files[0]);
});
if (/Mac|iP/.test(navigator.platform)) document.querySelector("#undo kbd").textContent = "⌘Z";
