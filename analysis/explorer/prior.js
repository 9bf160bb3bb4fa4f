// p(z|y), a mixture of Gaussians for each label; the other priors are mixtures of one.
// u is z in units of the prior: mean 0, covariance I, whatever the label. One u is one
// handwriting in all ten digits.

const LOG_2PI = Math.log(2 * Math.PI);

/** log Σ exp, of as many numbers as `values` has. */
function logSumExp(values) {
  let top = -Infinity;
  for (const value of values) if (value > top) top = value;
  if (top === -Infinity) return top;
  let sum = 0;
  for (const value of values) sum += Math.exp(value - top);
  return top + Math.log(sum);
}

/** A standard normal number (Box and Muller). */
function normal() {
  const radius = Math.sqrt(-2 * Math.log(1 - Math.random()));
  return radius * Math.cos(2 * Math.PI * Math.random());
}

class Prior {
  /**
   * numbers: float32, `rows` labels (1: the same for all) of
   * components × [log weight, mu (Z), W (Z, Z)] with W lower triangular and
   * Σ⁻¹ = Wᵀ W; then the shift (Z) and factor (Z, Z) of each label: z = shift + factor u.
   */
  constructor(numbers, { latent, rows, components }) {
    const [Z, M] = [latent, components];
    Object.assign(this, { Z, M, rows, numbers, size: 1 + Z + Z * Z });
    this.affine = rows * M * this.size;
    this.logDet = Array.from({ length: rows }, (_, row) => this.#logDetFactor(row));
    this.work = new Float64Array(M);
  }

  #row(y) {
    return this.rows === 1 ? 0 : y;
  }

  #factor(row) {
    return this.affine + row * (this.Z + this.Z * this.Z);
  }

  #logDetFactor(row) {
    let sum = 0;
    const at = this.#factor(row) + this.Z;
    for (let i = 0; i < this.Z; i++) sum += Math.log(this.numbers[at + i * (this.Z + 1)]);
    return sum;
  }

  /** z (Z) of u (Z). */
  unwhiten(u, y) {
    const { Z, numbers } = this;
    const shift = this.#factor(this.#row(y));
    const z = new Float64Array(Z);
    for (let i = 0; i < Z; i++) {
      z[i] = numbers[shift + i];
      for (let j = 0; j <= i; j++) z[i] += numbers[shift + Z + i * Z + j] * u[j];
    }
    return z;
  }

  /** u (Z) of z (Z). */
  whiten(z, y) {
    const shift = this.#factor(this.#row(y));
    return this.#solve(z.map((value, i) => value - this.numbers[shift + i]), y);
  }

  /** factor⁻¹ v, by forward substitution. */
  #solve(v, y) {
    const { Z, numbers } = this;
    const at = this.#factor(this.#row(y)) + Z;
    const u = new Float64Array(Z);
    for (let i = 0; i < Z; i++) {
      u[i] = v[i];
      for (let j = 0; j < i; j++) u[i] -= numbers[at + i * Z + j] * u[j];
      u[i] /= numbers[at + i * (Z + 1)];
    }
    return u;
  }

  /** Covariance of u's coordinates a and b if z has standard deviations sigma (Z). */
  covariance(sigma, y, a, b) {
    const found = [0, 0, 0]; // of aa, ab, bb
    for (let k = 0; k < this.Z; k++) {
      const column = this.#solve(sigma.map((s, i) => (i === k ? s : 0)), y);
      found[0] += column[a] * column[a];
      found[1] += column[a] * column[b];
      found[2] += column[b] * column[b];
    }
    return found;
  }

  /** log p(z|y) in nats. */
  logDensity(z, y) {
    const { Z, M, numbers, size, work } = this;
    for (let m = 0; m < M; m++) {
      const at = (this.#row(y) * M + m) * size;
      let sum = numbers[at] - 0.5 * Z * LOG_2PI;
      for (let i = 0; i < Z; i++) {
        const row = at + 1 + Z + i * Z;
        let whitened = 0;
        for (let j = 0; j <= i; j++) whitened += numbers[row + j] * (z[j] - numbers[at + 1 + j]);
        sum += Math.log(numbers[row + i]) - 0.5 * whitened * whitened;
      }
      work[m] = sum;
    }
    return logSumExp(work);
  }

  /** log p(u|y) in nats: that of z, in units of u. */
  logDensityAt(u, y) {
    return this.logDensity(this.unwhiten(u, y), y) + this.logDet[this.#row(y)];
  }

  /** A draw from p(z|y), as u. */
  sample(y) {
    const { Z, M, numbers, size } = this;
    let rest = Math.random();
    let m = 0;
    const first = this.#row(y) * M;
    while (m < M - 1 && (rest -= Math.exp(numbers[(first + m) * size])) > 0) m++;
    const at = (first + m) * size;
    const z = new Float64Array(Z);
    for (let i = 0; i < Z; i++) {
      // forward substitution: W (z − mu) = noise
      const row = at + 1 + Z + i * Z;
      let value = normal();
      for (let j = 0; j < i; j++) value -= numbers[row + j] * z[j];
      z[i] = value / numbers[row + i];
    }
    return this.whiten(z.map((value, i) => value + numbers[at + 1 + i]), y);
  }
}
