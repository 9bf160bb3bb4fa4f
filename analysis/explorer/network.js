// The network: weights out of the page's text, then encode and decode.
// Letters: D pixels, Z latent, C classes. Labels are 0…C − 1.

const PIXELS = 784;
const HALF = new Float32Array(65536); // the value of every half-precision number
for (let bits = 0; bits < 65536; bits++) {
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  const size = exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14;
  HALF[bits] = bits >> 15 ? -size : size;
}

/** The bytes of a block of the page: base64 of a raw deflate stream. */
async function unpack(id) {
  const text = atob(document.getElementById(id).textContent.trim());
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(inflated).arrayBuffer());
}

/**
 * Layers of an MLP. `bytes` holds all matrices as half precision, first the low bytes of
 * all numbers, then the high ones (so they deflate better), then the biases as float32.
 * A matrix has a row for each input.
 */
function readLayers(bytes, widths) {
  const fans = widths.slice(1).map((outputs, i) => [widths[i], outputs]);
  const total = fans.reduce((sum, [inputs, outputs]) => sum + inputs * outputs, 0);
  const biases = new Float32Array(bytes.slice(2 * total).buffer);
  let at = 0;
  let biasAt = 0;
  return fans.map(([inputs, outputs]) => {
    const weight = new Float32Array(inputs * outputs);
    for (let i = 0; i < weight.length; i++, at++) {
      weight[i] = HALF[bytes[at] | (bytes[total + at] << 8)];
    }
    const bias = biases.subarray(biasAt, (biasAt += outputs));
    return { inputs, outputs, weight, bias, out: new Float64Array(outputs) };
  });
}

/**
 * layer.out = bias + x W. Inputs that are 0 are left out: most pixels, nine of ten
 * labels and, behind a ReLU, most hidden units are. Four rows of W at a time, because
 * reading and writing `out` costs more than the sums.
 */
function dense(layer, x) {
  const { inputs, outputs, weight, out } = layer;
  out.set(layer.bias);
  const rows = dense.rows;
  let count = 0;
  for (let i = 0; i < inputs; i++) if (x[i] !== 0) rows[count++] = i;
  let k = 0;
  for (; k + 3 < count; k += 4) {
    const [i0, i1, i2, i3] = [rows[k], rows[k + 1], rows[k + 2], rows[k + 3]];
    const [a0, a1, a2, a3] = [x[i0], x[i1], x[i2], x[i3]];
    const [r0, r1, r2, r3] = [i0 * outputs, i1 * outputs, i2 * outputs, i3 * outputs];
    for (let o = 0; o < outputs; o++) {
      out[o] +=
        a0 * weight[r0 + o] + a1 * weight[r1 + o] + a2 * weight[r2 + o] + a3 * weight[r3 + o];
    }
  }
  for (; k < count; k++) {
    const a = x[rows[k]];
    const r = rows[k] * outputs;
    for (let o = 0; o < outputs; o++) out[o] += a * weight[r + o];
  }
  return out;
}
dense.rows = new Int32Array(65536);

/** erf to 1.5e-7: Abramowitz and Stegun 7.1.26. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series =
    t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - series * Math.exp(-x * x));
}

const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));

const ACTIVATIONS = {
  relu: (x) => (x > 0 ? x : 0),
  tanh: Math.tanh,
  gelu: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  silu: (x) => x * sigmoid(x),
};

/** q(z|x,y) and p(x|z,y). What a method returns is good until it is called again. */
class Model {
  constructor(facts, prior) {
    Object.assign(this, facts); // name, latent, classes, labelScale, activation
    this.prior = prior;
    this.labels = Math.max(1, this.classes); // a plain model has one, and ignores it
  }

  /** Layers as `readLayers` gives them. */
  set(part, layers) {
    this[part] = { layers, input: new Float64Array(layers[0].inputs) };
  }

  forward({ layers, input }, values, y) {
    input.fill(0);
    input.set(values);
    if (this.classes) input[input.length - this.classes + y] = this.labelScale;
    const activate = ACTIVATIONS[this.activation];
    let x = input;
    layers.forEach((layer, i) => {
      x = dense(layer, x);
      if (i < layers.length - 1) for (let o = 0; o < x.length; o++) x[o] = activate(x[o]);
    });
    return x;
  }

  /** Bernoulli logits (D) of p(x|z,y). */
  decode(z, y) {
    return this.forward(this.decoder, z, y);
  }

  /** The same at u, z in units of the prior (see prior.js). */
  decodeAt(u, y) {
    return this.decode(this.prior.unwhiten(u, y), y);
  }

  /** mu and sigma (Z) of q(z|x,y) for pixels (D) in [0, 1]. */
  encode(x, y) {
    const out = this.forward(this.encoder, x, y);
    const mu = Float64Array.from(out.subarray(0, this.latent));
    const sigma = Float64Array.from(out.subarray(this.latent), (v) => Math.exp(0.5 * v));
    return { mu, sigma };
  }
}

/** Sum of log(1 + exp(logit)): one logarithm for many factors, before they overflow. */
function softplusSum(logits) {
  let sum = 0;
  let product = 1;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i];
    if (logit > 30) sum += logit; // to 1e-13
    else product *= 1 + Math.exp(logit);
    if (product > 1e250) {
      sum += Math.log(product);
      product = 1;
    }
  }
  return sum + Math.log(product);
}

/** log p(x|z,y) in nats of grey pixels (D), from the logits. */
function logLikelihood(x, logits) {
  let sum = -softplusSum(logits);
  for (let i = 0; i < logits.length; i++) sum += x[i] * logits[i];
  return sum;
}
