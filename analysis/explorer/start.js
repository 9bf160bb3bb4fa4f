// Reading the page's blocks, and connecting its controls.

const FIRST = [5, 15]; // test images between which a way leads from the start
const SHOWN = 7; // the test image on the pad at the start: a seven
const tiles = [];
const sliders = [];
const images = []; // test images, and behind them those of files
const names = []; // theirs
const shipped = facts.images.labels.length;
/** For tests and for the console: the numbers behind the pictures. */
const explorer = { frames: 0, state, looked, names, centred, between, importanceSampled };
window.explorer = explorer;

function fail(error) {
  $("error").hidden = false;
  $("error").textContent = `This page does not work here: ${error.message ?? error}. `
    + "It needs a browser of 2023 or newer.";
  throw error;
}

/** Once all blocks of the page have been read. */
const read = new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve));

const floats = async (id) => new Float32Array((await unpack(id)).buffer);

async function readModel(part, described) {
  const found = new Model(described, new Prior(await floats(`${part}prior`), described));
  found.set("decoder", readLayers(await unpack(`${part}decoder`), described.decoder));
  return found;
}

async function cloud(id) {
  const numbers = new Int16Array((await unpack(id)).buffer);
  const labels = numbers.subarray(0, facts.cloud);
  const places = Float32Array.from(numbers.subarray(facts.cloud), (n) => (n / 32767) * facts.edge);
  return { labels, places };
}

/** log p(u|y) on the plane, up to a constant; with more dimensions that of N(0, I). */
function planeDensity({ prior, latent }, [a, b]) {
  return (place, y) => {
    if (latent > 2) return -0.5 * (place[0] ** 2 + place[1] ** 2);
    const u = new Float64Array(latent);
    u[a] = place[0];
    if (latent > 1) u[b] = place[1];
    return prior.logDensityAt(u, Math.max(0, y));
  };
}

async function start() {
  model = await readModel("", facts.model);
  makeTiles();
  makeSliders();
  makeScores();
  recall();
  frame(performance.now());
  performance.mark("first digit");
  await read;
  const shown = { edge: facts.edge, axes: facts.axes, cloud: await cloud("cloud") };
  plane = new Plane($("plane"), shown, planeDensity(model, facts.axes), setPlace);
  connect();
  request();
  model.set("encoder", readLayers(await unpack("encoder"), facts.model.encoder));
  const bytes = await unpack("images");
  facts.images.labels.forEach((label, k) => {
    images.push(Float64Array.from(bytes.subarray(k * PIXELS, (k + 1) * PIXELS), (byte) => byte / 255));
    names.push(`test image ${k + 1}, a ${label}`);
  });
  if (facts.twin) await startTwin();
  pad = new Pad($("pad"), (x, final) => look(x, { final }));
  pad.show();
  images.forEach((_, k) => addThumb(k, (chosen) => choose(chosen)));
  FIRST.forEach((k, place) => images[k] && setEnd(place, k));
  $("between-at").value = state.at = 0;
  recallEnds();
  if (model.latent > 2) noise = await floats("noise");
  else quadrature = new Quadrature(model);
  Object.assign(explorer, { model, twin, images, quadrature, noise });
  if (images[SHOWN] && !location.hash) choose(SHOWN, null); // the pad is filled from the start
  performance.mark("ready");
}

async function startTwin() {
  twin = await readModel("twin-", facts.twin);
  const axes = [0, 1];
  const shown = { edge: facts.edge, axes, cloud: await cloud("twin-cloud") };
  twinPlane = new Plane($("twin-plane"), shown, planeDensity(twin, axes), setPlace);
  if (twin.latent <= 2) twinQuadrature = new Quadrature(twin);
  keys($("twin-plane"));
  request();
}

function makeTiles() {
  for (let y = 0; y < model.classes; y++) {
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIZE;
    canvas.className = "image live";
    button.append(canvas, String(y));
    button.setAttribute("aria-label", `Digit ${y}`);
    button.addEventListener("click", () => setDigit(y));
    $("ten").append(button);
    tiles.push(canvas);
  }
}

function makeSliders() {
  facts.order.forEach((dimension, k) => {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "range", min: -facts.edge, max: facts.edge, step: 0.01 });
    const output = document.createElement("output");
    label.append(`z${dimension + 1}, used: ${facts.kl[k]} nats`, input, output);
    input.addEventListener("input", () => {
      stop();
      state.u[dimension] = Number(input.value);
      request();
    });
    $("sliders").append(label);
    sliders.push({ input, output });
  });
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };

function keys(canvas) {
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [a, b] = facts.axes;
    const here = [state.u[a], state.u[b] ?? 0];
    if (event.key in ARROWS) {
      const step = event.shiftKey ? 0.25 : 0.05;
      setPlace(ARROWS[event.key].map((way, i) => here[i] + step * way));
    } else if (event.key === "Home") setPlace([0, 0]);
    else if (/^[0-9]$/.test(event.key)) setDigit(Number(event.key));
    else return;
    event.preventDefault();
  });
}

function connect() {
  const on = (id, event, act) => $(id).addEventListener(event, act);
  keys($("plane"));
  on("random", "click", () => (stop(), setU(drawn())));
  on("walk", "click", () => toggle("walk", () => ({ from: state.u.slice(), to: drawn() })));
  on("reset", "click", reset);
  on("export", "click", showPicture);
  on("close", "click", () => ($("picture").hidden = true, $("export").focus()));
  takeFiles();
  on("clear", "click", () => (pad.clear(), forget()));
  on("temperature", "input", () => setTemperature(Number($("temperature").value)));
  on("between-at", "input", () => (stop(), goBetween(Number($("between-at").value))));
  on("play", "click", () => toggle("play", () => ({})));
  for (const radio of document.getElementsByName("way")) {
    radio.addEventListener("change", () => setWay(radio.value === "spherical"));
  }
  [0, 1].forEach((place) =>
    makeEnd($(`end-${"ab"[place]}`), () => setNext(place), (k) => choose(k, place)),
  );
  const again = () => {
    css.known = {};
    plane.prepared = 0;
    if (twinPlane) twinPlane.prepared = 0;
    pad?.show();
    showZoom();
    request();
  };
  window.addEventListener("resize", again);
  window.addEventListener("hashchange", () => (recall(), recallEnds()));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
}

function setTemperature(value) {
  state.temperature = value;
  $("temperature").value = value;
  $("temperature-value").textContent = value.toFixed(2);
  request();
}

function setWay(spherical) {
  state.spherical = spherical;
  document.getElementsByName("way")[spherical ? 1 : 0].checked = true;
  showStrip();
  goBetween(state.at);
}

/** No image is looked at any more. */
function forget() {
  Object.assign(looked, { run: looked.run + 1, x: null, posterior: null, scores: [] });
  for (const id of ["seen", "back"]) paint($(id), NOTHING);
  $("progress").textContent = "";
  $("zoom-name").textContent = "handwritings z that fit";
  showScores();
  showZoom();
  request();
}

function reset() {
  stop();
  forget();
  pad?.clear();
  state.ends = [null, null];
  for (const id of ["strip", "twin-strip"]) {
    if ($(id)) $(id).getContext("2d").clearRect(0, 0, STRIP * SIZE, SIZE);
  }
  ["a", "b"].forEach((end) => {
    paint($(`end-${end}`).querySelector("canvas"), NOTHING);
    $(`end-${end}`).setAttribute("aria-label", `Place ${end.toUpperCase()}: empty`);
  });
  setNext(0);
  setTemperature(1);
  setPlace([0, 0]);
  setU(new Float64Array(model.latent));
}

explorer.ready = start();
explorer.ready.then(() => quadrature?.prepare()).catch(fail);
