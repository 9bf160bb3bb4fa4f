// log p(x|y) and the true posterior p(z|x,y): by quadrature where z has one or two
// dimensions, else by importance sampling.

const STEPS = 33; // points of the coarse grid, a dimension
const EDGE = 4; // it reaches from −EDGE to EDGE, in units of the prior
const SPACING = (2 * EDGE) / (STEPS - 1);
const PARTS = 5; // a coarse cell that matters is divided into PARTS, a dimension
const NEAR = 12; // nats below the best cell that still matter
const MOST = 64; // cells that are divided

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
 * they are made once. For an image, the cells near the best are then divided. The rule
 * is exact to far below 0.01 nats as soon as its spacing, 0.05, is under 1.7 σ of the
 * posterior, because the integrand falls to 0 like a Gaussian on all sides.
 */
class Quadrature {
  constructor(model) {
    this.model = model;
    this.across = model.latent > 1 ? STEPS : 1; // points of the second dimension
    this.cells = STEPS * this.across;
    this.tables = new Map();
  }

  at(cell) {
    const u = [-EDGE + SPACING * (cell % STEPS)];
    if (this.across > 1) u.push(-EDGE + SPACING * Math.floor(cell / STEPS));
    return u;
  }

  /** Logits, their softplus and log p(u|y) at each coarse point, made once a label. */
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
  async coarse(x, y) {
    const { logits, constant } = await this.table(y);
    const ink = [...x.keys()].filter((pixel) => x[pixel]);
    return constant.map((value, cell) =>
      ink.reduce((sum, pixel) => sum + x[pixel] * logits[cell * PIXELS + pixel], value),
    );
  }

  #chosen(joint) {
    const order = [...joint.keys()].sort((a, b) => joint[b] - joint[a]);
    const near = order.filter((cell) => joint[cell] > joint[order[0]] - NEAR);
    const [column, row] = [order[0] % STEPS, Math.floor(order[0] / STEPS)];
    const around = order.filter(
      (cell) =>
        Math.abs((cell % STEPS) - column) < 2 && Math.abs(Math.floor(cell / STEPS) - row) < 2,
    );
    return new Set([...around, ...near].slice(0, MOST));
  }

  /**
   * log p(x|y), and the posterior as points {u, size, log} with `log` the log of the
   * mass of a square of side `size` around u.
   */
  async evidence(x, y, stopped = () => false) {
    const joint = await this.coarse(x, y);
    const chosen = this.#chosen(joint);
    const dims = this.across > 1 ? 2 : 1;
    const points = [];
    const slice = slices();
    for (let cell = 0; cell < this.cells; cell++) {
      if (!chosen.has(cell)) {
        points.push({ u: this.at(cell), size: SPACING, log: joint[cell] + dims * Math.log(SPACING) });
        continue;
      }
      for (const u of this.#divided(this.at(cell))) {
        const density = this.model.prior.logDensityAt(u, y);
        const log = density + logLikelihood(x, this.model.decodeAt(u, y));
        const size = SPACING / PARTS;
        points.push({ u, size, log: log + dims * Math.log(size) });
        if (slice.over()) await slice.next();
        if (stopped()) return null;
      }
    }
    const logP = logSumExp(points.map((point) => point.log));
    for (const point of points) point.log -= logP;
    return { logP, points: points.filter((point) => point.log > -NEAR) };
  }

  #divided([a, b]) {
    const steps = Array.from({ length: PARTS }, (_, k) => ((k + 0.5) / PARTS - 0.5) * SPACING);
    if (b === undefined) return steps.map((step) => [a + step]);
    return steps.flatMap((down) => steps.map((step) => [a + step, b + down]));
  }
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
