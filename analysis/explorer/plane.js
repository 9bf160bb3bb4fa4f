// The latent plane: a cloud of test images, the prior's contours, and a point to drag.
// Two of u's coordinates, `axes`; the second goes upwards.

const MASSES = [0.393, 0.865, 0.989]; // inside 1, 2, 3 σ of a Gaussian in a plane
const RASTER = 81; // points of a contour plot, a dimension

/** A colour of the style sheet; read once, until the theme changes. */
function css(name) {
  css.known[name] ??= getComputedStyle(document.documentElement).getPropertyValue(name);
  return css.known[name];
}
css.known = {};

/** A canvas with as many pixels as the screen has for it, and its context. */
function sharp(canvas) {
  const ratio = Math.min(3, window.devicePixelRatio || 1);
  const side = canvas.clientWidth || 320;
  const pixels = Math.round(side * ratio);
  if (canvas.width !== pixels) canvas.width = canvas.height = pixels;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, side, side);
  return { context, side };
}

/** A square part of the plane on a canvas: centre (x, y), `half` a side. */
class View {
  constructor(side, x, y, half) {
    Object.assign(this, { side, x, y, half, scale: side / (2 * half) });
  }

  to([x, y]) {
    return [this.side / 2 + (x - this.x) * this.scale, this.side / 2 - (y - this.y) * this.scale];
  }

  from([left, top]) {
    return [
      this.x + (left - this.side / 2) / this.scale,
      this.y - (top - this.side / 2) / this.scale,
    ];
  }

  line(context, points) {
    context.beginPath();
    for (const point of points) context.lineTo(...this.to(point));
    context.stroke();
  }
}

/** The levels that enclose MASSES of a density given on equal cells. */
function levels(density) {
  const sorted = Float64Array.from(density).sort().reverse();
  const total = sorted.reduce((sum, value) => sum + value, 0);
  let sum = 0;
  let next = 0;
  const found = [];
  for (const value of sorted) {
    sum += value;
    while (next < MASSES.length && sum >= MASSES[next] * total) {
      found.push(value);
      next++;
    }
  }
  return found;
}

/** Marching squares: the pieces of the line on which n × n values are `level`. */
function contour(values, n, level) {
  const pieces = [];
  const between = (i, j, k, l) => {
    const [a, b] = [values[j * n + i], values[l * n + k]];
    if (a > level === b > level) return;
    const t = (level - a) / (b - a);
    crossings.push([i + t * (k - i), j + t * (l - j)]);
  };
  let crossings = [];
  for (let j = 0; j + 1 < n; j++) {
    for (let i = 0; i + 1 < n; i++) {
      crossings = [];
      between(i, j, i + 1, j);
      between(i + 1, j, i + 1, j + 1);
      between(i, j + 1, i + 1, j + 1);
      between(i, j, i, j + 1);
      for (let k = 0; k + 1 < crossings.length; k += 2) {
        pieces.push([crossings[k], crossings[k + 1]]);
      }
    }
  }
  return pieces;
}

/** Points of an ellipse, `radius` standard deviations around a mean of two. */
function ellipse([x, y], [aa, ab, bb], radius) {
  const [p, q] = [Math.sqrt(aa), ab / Math.sqrt(aa)]; // Cholesky
  const r = Math.sqrt(Math.max(0, bb - q * q));
  return Array.from({ length: 61 }, (_, k) => {
    const angle = (k / 60) * 2 * Math.PI;
    const [c, s] = [radius * Math.cos(angle), radius * Math.sin(angle)];
    return [x + p * c, y + q * c + r * s];
  });
}

/** The encoder's ellipses (dashed) and the true posterior (filled), where known. */
function drawPosterior(context, view, { mean, covariance, points, axes }) {
  context.fillStyle = css("--accent");
  const top = Math.max(...points.map((point) => point.log));
  for (const { u, size, log } of points) {
    context.globalAlpha = 0.85 * Math.exp(log - top);
    const side = size * view.scale + 0.5;
    const [x, y] = view.to([u[axes[0]], u[axes[1]] ?? 0]);
    if (context.globalAlpha > 0.01) context.fillRect(x - side / 2, y - side / 2, side, side);
  }
  context.globalAlpha = 1;
  if (!covariance) return;
  context.strokeStyle = css("--ink");
  context.lineWidth = 1.5;
  context.setLineDash([4, 3]);
  for (const radius of [1, 2]) view.line(context, ellipse(mean, covariance, radius));
  context.setLineDash([]);
}

class Plane {
  /** facts: edge, axes, cloud {places, labels}; density(u, y); names of the digits or not */
  constructor(canvas, facts, density, moved) {
    Object.assign(this, { canvas, facts, density });
    this.back = document.createElement("canvas");
    this.contours = new Map();
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.focus({ preventScroll: true });
      moved(this.#place(event));
      event.preventDefault();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) moved(this.#place(event));
    });
  }

  get view() {
    return new View(this.canvas.clientWidth || 320, 0, 0, this.facts.edge);
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const { edge } = this.facts;
    return this.view
      .from([event.clientX - box.left, event.clientY - box.top])
      .map((value) => Math.max(-edge, Math.min(edge, value)));
  }

  #contours(y) {
    if (!this.contours.has(y)) {
      const { edge } = this.facts;
      const at = (k) => -edge + (2 * edge * k) / (RASTER - 1);
      const density = Float64Array.from({ length: RASTER ** 2 }, (_, k) =>
        Math.exp(this.density([at(k % RASTER), at(Math.floor(k / RASTER))], y)),
      );
      const pieces = levels(density).map((level) =>
        contour(density, RASTER, level).map((piece) => piece.map((place) => place.map(at))),
      );
      this.contours.set(y, pieces);
    }
    return this.contours.get(y);
  }

  /** What stays while the point moves; to be called when size, theme or digit changes. */
  prepare(digit) {
    const { context, side } = sharp(this.canvas);
    const { view } = this;
    const { places, labels } = this.facts.cloud;
    context.font = "9px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let label = 0; label < 10; label++) {
      context.globalAlpha = label === digit ? 1 : 0.55;
      context.fillStyle = css(label === digit ? "--ink" : `--d${label}`);
      labels.forEach((own, k) => {
        if (own === label) context.fillText(label, ...view.to([places[2 * k], places[2 * k + 1]]));
      });
    }
    context.globalAlpha = 1;
    context.strokeStyle = css("--line");
    view.line(context, [[-view.half, 0], [view.half, 0]]);
    view.line(context, [[0, -view.half], [0, view.half]]);
    context.strokeStyle = css("--faint");
    for (const pieces of this.#contours(digit)) {
      for (const piece of pieces) view.line(context, piece);
    }
    this.back.width = this.back.height = this.canvas.width;
    this.back.getContext("2d").drawImage(this.canvas, 0, 0);
    this.prepared = side;
  }

  draw(point, { path = [], posterior = null, marks = [] } = {}) {
    const { context, side } = sharp(this.canvas);
    const { view } = this;
    context.drawImage(this.back, 0, 0, side, side);
    context.strokeStyle = css("--accent");
    context.lineWidth = 2;
    view.line(context, path);
    if (posterior) drawPosterior(context, view, posterior);
    context.font = "bold 13px system-ui, sans-serif";
    context.fillStyle = css("--ink");
    for (const { at, name } of marks) context.fillText(name, ...view.to(at));
    const [x, y] = view.to(point);
    for (const [radius, colour] of [[9, "--paper"], [7, "--accent"], [3, "--paper"]]) {
      context.fillStyle = css(colour);
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    }
  }
}
