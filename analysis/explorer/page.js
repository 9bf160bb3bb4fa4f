// The page's state, and what changes it.

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);
let [model, twin, quadrature, twinQuadrature, noise] = [];
let [plane, twinPlane, pad] = [];

const state = {
  u: new Float64Array(facts.model.latent), // z in units of the prior
  v: new Float64Array(facts.twin?.latent ?? 2), // the same of the plain twin
  digit: 5, // the large one
  temperature: 1,
  ends: [null, null], // {k, u, v}: the test images A and B
  next: 0, // which of them is filled next
  at: 0, // where between them, 0 to 1
  spherical: false,
};
const motion = { walk: null, play: null };

const clamp = (value) => Math.max(-facts.edge, Math.min(facts.edge, value));

function setU(u) {
  state.u.set(u);
  request();
}

function setV(v) {
  state.v.set(v);
  request();
}

/** Both planes are those of N(0, I): one place is a z of either model. */
function setPlace([x, y]) {
  stop();
  const [a, b] = facts.axes;
  state.u[a] = clamp(x);
  if (model.latent > 1) state.u[b] = clamp(y);
  state.v.set([clamp(x), clamp(y)].slice(0, state.v.length));
  request();
}

function setDigit(digit) {
  if (plane && state.digit !== digit) plane.prepared = 0;
  const changed = state.digit !== digit;
  state.digit = digit;
  if (changed) showStrip();
  request();
}

// -- drawing --------------------------------------------------------------------------

function request() {
  if (!request.pending) request.pending = requestAnimationFrame(frame);
}

/** One picture of the state: ten digits decoded, and all that shows the point. */
function frame(now) {
  request.pending = 0;
  move(now);
  const ink = css("--invert").trim() === "1" ? "black" : "white";
  const root = document.documentElement;
  if (root.dataset.ink !== ink) root.dataset.ink = ink;
  for (let y = 0; y < model.classes; y++) {
    const logits = model.decodeAt(state.u, y);
    paintLogits(tiles[y], logits);
    if (y === state.digit) paintLogits($("large"), logits);
  }
  if (plane) showPlanes();
  showNumbers();
  explorer.frames++;
}

function showPlanes() {
  const [a, b] = facts.axes;
  const flat = (u) => [u[a], u[b] ?? 0];
  if (!plane.prepared) plane.prepare(state.digit);
  const marks = state.ends.flatMap((end, i) => (end ? [{ at: flat(end.u), name: "AB"[i] }] : []));
  plane.draw(flat(state.u), { path: way().map(flat), posterior: looked.posterior, marks });
  if (twinPlane) {
    if (!twinPlane.prepared) twinPlane.prepare(-1);
    twinPlane.draw([state.v[0], state.v[1] ?? 0]);
    paintLogits($("twin-image"), twin.decodeAt(state.v, 0));
  }
}

function showNumbers() {
  for (const [k, { input, output }] of sliders.entries()) {
    const value = state.u[facts.order[k]];
    input.value = value;
    output.textContent = value.toFixed(2).replace("-", "−");
  }
  if (showNumbers.digit !== state.digit) showName();
  clearTimeout(showNumbers.later);
  showNumbers.later = setTimeout(settled, 250);
}

function showName() {
  showNumbers.digit = state.digit;
  for (const [y, tile] of tiles.entries()) {
    tile.parentElement.setAttribute("aria-pressed", y === state.digit);
  }
  $("large-name").textContent = `digit ${state.digit} in this handwriting`;
  $("large").setAttribute("aria-label", `The digit ${state.digit} of this z, large`);
}

/** Not in every frame: a screen reader speaks it, and the address keeps it. */
function settled() {
  const shown = facts.order.slice(0, 4).map((i) => state.u[i].toFixed(2).replace("-", "−"));
  const more = facts.order.length > 4 ? ", …" : "";
  $("status").textContent = `z = (${shown.join(", ")}${more}), large digit ${state.digit}`;
  remember();
}

const way = () => {
  const [a, b] = state.ends;
  if (!a || !b) return [];
  return Array.from({ length: 25 }, (_, k) => between(a.u, b.u, k / 24, state.spherical));
};

function showStrip() {
  const [a, b] = state.ends;
  if (!a || !b) return;
  for (let k = 0; k < STRIP; k++) {
    const t = k / (STRIP - 1);
    const u = between(a.u, b.u, t, state.spherical);
    paintLogits($("strip"), model.decodeAt(u, state.digit), SIZE * k);
    if (!twin) continue;
    if (a.v && b.v) {
      const v = between(a.v, b.v, t, state.spherical);
      paintLogits($("twin-strip"), twin.decodeAt(v, 0), SIZE * k);
    } else paint($("twin-strip"), NOTHING, SIZE * k);
  }
}

// -- what moves by itself -------------------------------------------------------------

function stop() {
  motion.walk = motion.play = null;
  for (const id of ["walk", "play"]) $(id).setAttribute("aria-pressed", "false");
}

const drawn = () => model.prior.sample(state.digit).map((value) => clamp(state.temperature * value));

/** Random walk: from one draw of the prior to the next, 2.5 seconds each. Play: to and fro. */
function move(now) {
  if (motion.walk) {
    const { from, to, start } = motion.walk;
    const t = Math.min(1, (now - (motion.walk.start ||= now)) / 2500);
    state.u.set(between(from, to, t * t * (3 - 2 * t), true));
    state.v.set(facts.axes.map((i) => state.u[i] ?? 0).slice(0, state.v.length));
    if (start && t === 1) motion.walk = { from: state.u.slice(), to: drawn(), start: now };
    request();
  }
  if (motion.play) {
    const t = (now - (motion.play.start ||= now)) / 3000;
    goBetween(Math.abs(((t + 1) % 2) - 1));
    request();
  }
}

function toggle(id, begin) {
  const on = !motion[id];
  stop();
  if (on) {
    motion[id] = begin();
    $(id).setAttribute("aria-pressed", "true");
  }
  request();
}

function goBetween(t) {
  const [a, b] = state.ends;
  state.at = t;
  $("between-at").value = t;
  if (!a || !b) return;
  state.u.set(between(a.u, b.u, t, state.spherical));
  if (twin && a.v && b.v) state.v.set(between(a.v, b.v, t, state.spherical));
  request();
}

// -- test images ----------------------------------------------------------------------

function choose(k, place = state.next) {
  stop();
  const v = twin ? facts.images.twin[k] : null; // of a file there is none
  pad.clear(images[k]);
  look(images[k], { label: facts.images.labels[k], place: v });
  if (place !== null) setEnd(place, k);
}

function setEnd(place, k) {
  const label = facts.images.labels[k];
  const { u } = encoded(images[k], label);
  state.ends[place] = { k, u, v: twin && facts.images.twin[k] };
  const button = $(`end-${"ab"[place]}`);
  paint(button.querySelector("canvas"), images[k]);
  button.setAttribute("aria-label", `Place ${"AB"[place]}: ${names[k]}`);
  setNext(1 - place);
  state.at = place;
  $("between-at").value = place;
  showStrip();
  request();
}

function setNext(place) {
  state.next = place;
  for (const i of [0, 1]) $(`end-${"ab"[i]}`).setAttribute("aria-pressed", i === place);
}
