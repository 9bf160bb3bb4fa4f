// log p(x|y) and the true posterior p(z|x,y): by quadrature where z has one or two
// dimensions, else by importance sampling.

const STEPS = 41; // points of the coarse grid, a dimension
const EDGE = 6; // it reaches from −EDGE to EDGE, in units of the prior
const SPACING = (2 * EDGE) / (STEPS - 1);
const PARTS = 5; // a coarse cell that matters is divided into PARTS, a dimension
const MOST = 64; // cells that are divided
const NEAR = 9; // nats below the best point that still matter
const CLOSE = 6; // of these, those that are divided once more
const MANY = 1000; // points are not divided again: the posterior is wide
const WIDE = 0.6; // standard deviations of the posterior that points may be apart

/** Lets the page answer between two slices of a long computation. */
function slices(milliseconds = 8) {
  let until = performance.now() + milliseconds;
  return {
    over: () => performance.now() > until,
    next: async () => {
      await new Promise((resolve) => setTimeout(resolve));
      until = performance.now() + milliseconds;
    },
  };
}

/**
 * Midpoint rule in u. The decoder's logits on a coarse grid do not depend on the image:
 * they are made once. For an image, the best cells are divided, and from them on every
 * cell at whose border there is still mass; the points that matter once more, where the
 * posterior is narrow. (For a smooth integrand that falls to 0 on all sides 1.6 σ apart
 * would do; ReLUs put kinks into this one.)
 */
class Quadrature {
  constructor(model) {
    this.model = model;
    this.dims = Math.min(2, model.latent);
    this.cells = STEPS ** this.dims;
    this.tables = new Map();
  }

  at(cell) {
    const u = [-EDGE + SPACING * (cell % STEPS), -EDGE + SPACING * Math.floor(cell / STEPS)];
    return u.slice(0, this.dims);
  }

  /** Logits, and what of log p(x, u|y) is the same for all x, at each coarse point. */
  table(y) {
    if (!this.tables.has(y)) this.tables.set(y, this.#tabulate(y));
    return this.tables.get(y);
  }

  /** All tables, one after the other, before they are asked for. */
  async prepare() {
    for (let y = 0; y < this.model.labels; y++) await this.table(y);
  }

  async #tabulate(y) {
    const { model, cells } = this;
    const logits = new Float32Array(cells * PIXELS);
    const constant = new Float64Array(cells);
    const slice = slices();
    for (let cell = 0; cell < cells; cell++) {
      const u = this.at(cell);
      const found = model.decodeAt(u, y);
      logits.set(found, cell * PIXELS);
      constant[cell] = model.prior.logDensityAt(u, y) - softplusSum(found);
      if (slice.over()) await slice.next();
    }
    return { logits, constant };
  }

  /** log p(x, u|y) at each coarse point. */
  async #coarse(x, y) {
    const { logits, constant } = await this.table(y);
    const ink = [...x.keys()].filter((pixel) => x[pixel]);
    return constant.map((value, cell) =>
      ink.reduce((sum, pixel) => sum + x[pixel] * logits[cell * PIXELS + pixel], value),
    );
  }

  /** The parts of the square of side `size` around u, with log p(x, u|y) at each. */
  #divide(x, y, { u: [a, b], size }, parts) {
    const steps = Array.from({ length: parts }, (_, k) => ((k + 0.5) / parts - 0.5) * size);
    const places = this.dims === 1
      ? steps.map((step) => [a + step])
      : steps.flatMap((up) => steps.map((step) => [a + step, b + up]));
    return places.map((u) => {
      const density = this.model.prior.logDensityAt(u, y);
      return { u, size: size / parts, log: density + logLikelihood(x, this.model.decodeAt(u, y)) };
    });
  }

  /** The cells beside `cell` at whose border a point is above `floor`. */
  #beyond(cell, points, floor) {
    const [column, row] = [cell % STEPS, Math.floor(cell / STEPS)];
    const found = new Set();
    points.forEach(({ log }, k) => {
      if (log < floor) return;
      const [i, j] = [k % PARTS, Math.floor(k / PARTS)];
      if (i === 0 && column > 0) found.add(cell - 1);
      if (i === PARTS - 1 && column < STEPS - 1) found.add(cell + 1);
      if (this.dims === 1) return;
      if (j === 0 && row > 0) found.add(cell - STEPS);
      if (j === PARTS - 1 && row < STEPS - 1) found.add(cell + STEPS);
    });
    return found;
  }

  /**
   * log p(x|y) and the posterior, as points {u, size, log}: `log` is the log density of a
   * square of side `size` around u. null if `stopped` says so.
   */
  async evidence(x, y, stopped = () => false) {
    const joint = await this.#coarse(x, y);
    const order = [...joint.keys()].sort((a, b) => joint[b] - joint[a]);
    const queue = order.filter((cell) => joint[cell] > joint[order[0]] - NEAR);
    const divided = new Map();
    const slice = slices();
    let top = -Infinity;
    while (queue.length && divided.size < MOST) {
      const cell = queue.shift();
      if (divided.has(cell)) continue;
      const points = this.#divide(x, y, { u: this.at(cell), size: SPACING }, PARTS);
      divided.set(cell, points);
      top = points.reduce((best, { log }) => Math.max(best, log), top);
      queue.unshift(...this.#beyond(cell, points, top - NEAR));
      if (slice.over()) await slice.next();
      if (stopped()) return null;
    }
    const rest = order.filter((cell) => !divided.has(cell));
    let points = rest.map((cell) => ({ u: this.at(cell), size: SPACING, log: joint[cell] }));
    points.push(...[...divided.values()].flat());
    while (this.#coarser(points)) {
      const close = points.filter(({ log }) => log > top - CLOSE);
      if (close.length > MANY) break;
      const finer = points.filter(({ log }) => log <= top - CLOSE);
      for (const point of close) {
        finer.push(...this.#divide(x, y, point, 3));
        if (slice.over()) await slice.next();
        if (stopped()) return null;
      }
      points = finer;
    }
    return this.#normalised(points);
  }

  mass({ size, log }) {
    return log + this.dims * Math.log(size);
  }

  /** Are points further apart than the posterior's smallest σ allows? */
  #coarser(points) {
    const { points: known } = this.#normalised(points);
    const mean = [0, 0];
    const [xx, xy, yy] = moments(known, (point) => Math.exp(this.mass(point)), mean);
    const gap = Math.hypot(xx - yy, 2 * xy);
    const smallest = this.dims === 1 ? xx : (xx + yy - gap) / 2;
    const size = Math.min(...known.map((point) => point.size));
    return size > WIDE * Math.sqrt(Math.max(0, smallest));
  }

  #normalised(points) {
    const logP = logSumExp(points.map((point) => this.mass(point)));
    const known = points.filter((point) => this.mass(point) > logP - NEAR);
    return { logP, points: known.map((point) => ({ ...point, log: point.log - logP })) };
  }
}

/** Covariance (xx, xy, yy) of weighted points, whose mean is put into `mean`. */
function moments(points, weight, mean) {
  const found = [0, 0, 0];
  for (const point of points) {
    const [w, a, b] = [weight(point), point.u[0], point.u[1] ?? 0];
    mean[0] += w * a;
    mean[1] += w * b;
    found[0] += w * a * a;
    found[1] += w * a * b;
    found[2] += w * b * b;
  }
  found[0] -= mean[0] ** 2;
  found[1] -= mean[0] * mean[1];
  found[2] -= mean[1] ** 2;
  return found;
}

/** −neg_elbo at the encoder's mean: quick, and near enough to guess the label. */
function quickScore(model, x, y) {
  const { mu, sigma } = model.encode(x, y);
  const entropy = sigma.reduce((sum, s) => sum + Math.log(s), 0);
  return model.prior.logDensity(mu, y) + entropy + logLikelihood(x, model.decode(mu, y));
}

/**
 * log p(x|y) ≈ log 1/K Σ p(x|z,y) p(z|y) / q(z|x,y), z from q by fixed noise (K, Z):
 * Burda et al. 2016, eq. 8.
 */
async function importanceSampled(model, x, y, noise, stopped = () => false) {
  const { mu, sigma } = model.encode(x, y);
  const Z = model.latent;
  const K = noise.length / Z;
  const logs = new Float64Array(K);
  const slice = slices();
  for (let k = 0; k < K; k++) {
    const draw = noise.subarray(k * Z, (k + 1) * Z);
    const z = mu.map((value, i) => value + sigma[i] * draw[i]);
    const q = draw.reduce((sum, n, i) => sum - 0.5 * (n * n + LOG_2PI) - Math.log(sigma[i]), 0);
    logs[k] = logLikelihood(x, model.decode(z, y)) + model.prior.logDensity(z, y) - q;
    if (slice.over()) await slice.next();
    if (stopped()) return null;
  }
  return { logP: logSumExp(logs) - Math.log(K), points: [] };
}
