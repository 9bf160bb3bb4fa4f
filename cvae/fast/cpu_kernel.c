/* Training steps of the CVAE on a CPU: one fork and one join of the threads a step.

   Each thread takes its part of the batch through encoder and decoder and back, with
   products of its own, into a gradient of its own. Then each takes a stretch of the
   weights, adds the gradients there and makes Adam's step. `gradient.ByAutograd` and
   `optimizer.Adam` define what is computed; tests hold this to them.

   Most pixels are 0: where they are, the first layer's products are sums over the others
   alone, with its weights as (in, out).

   Letters: B images of a batch, n of them one thread's, D pixels, C classes, Z latent.
   Matrices are row-major; weights are (out, in), as in torch, but for the one above. */

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#define LAYERS 16    /* of one half, at most */
#define THREADS 64   /* at most */
#ifdef __AVX512F__
#define LANES 16     /* floats that are worked on at once: a register of them, for */
#else                /* compilers keep longer ones in memory, at half the speed */
#define LANES 8
#endif
#define ALIGNED 16   /* floats: buffers begin at multiples of 64 bytes */
#define SPINS 20000  /* looks at a barrier before the core is given away */
#define STRETCH 8192 /* weights whose gradients stay in the cache for Adam */
#define WIDE 8       /* times LANES floats of a row are summed at once, in registers */

typedef void Sgemm(const char *, const char *, const int *, const int *, const int *,
                   const float *, const float *, const int *, const float *,
                   const int *, const float *, float *, const int *);

typedef struct { /* an MLP; layer i maps widths[i] to widths[i + 1] */
  int layers, widths[LAYERS + 1];
} Half;

typedef struct { /* what stays the same for a whole run */
  Half encoder, decoder;
  int pixels, classes, latent, is_tanh, threads, batch;
  int sparse; /* the first layer's weights and all that belongs to them are (in, out) */
  float label_scale, beta1, beta2, eps, decay;
  double ema;                     /* decay of the mean of the weights */
  int64_t numbers;                /* weights in all */
  float *weights, *mean, *square; /* encoder, then decoder: W, b of each layer; Adam's */
  float *averaged;                /* the running mean of the weights; NULL: none */
  float *grads;                   /* (threads, numbers) */
  float *scratch;                 /* (threads, stride) */
  int64_t stride;
  const uint8_t *images;     /* all of them, (N, D) */
  const int64_t *labels;     /* (N,) */
  Sgemm *sgemm;              /* BLAS with 32-bit integers */
  int (*product_threads)(int); /* sets those of this thread's products */
} Job;

typedef struct { /* steps one after another; what has a row an image holds B rows each */
  int64_t count;
  const int64_t *rows;     /* which images */
  const int *sizes;        /* (count,): B of each step */
  const float *noise;      /* (…, Z) */
  const float *control;    /* (count, 2): learning rate and β */
  const float *x, *target; /* (…, D); NULL: the image itself */
  double done;             /* steps that Adam has made before */
  double *sums;            /* (threads, count, 3 + 2Z): recon, kl, loss, mu, mu² */
} Steps;

typedef struct { /* what the threads share */
  const Job *job;
  const Steps *steps;
  atomic_int ready, waiting, round; /* ready: 1 begin, −1 there are too few threads */
} Shared;

typedef struct {
  Shared *shared;
  int thread;
} Part;

/* Look for a while, then let other processes have the core. */
static void pause_after(int *spins) {
  if (++*spins > SPINS) sched_yield();
}

static void wait_for_all(Shared *shared) {
  int round = atomic_load(&shared->round), spins = 0;
  if (atomic_fetch_add(&shared->waiting, 1) == shared->job->threads - 1) {
    atomic_store(&shared->waiting, 0);
    atomic_store(&shared->round, round + 1);
  }
  while (atomic_load(&shared->round) == round) pause_after(&spins);
}

/* C (m, k) = A (m, i) B (i, k); 'T': the matrix is stored transposed. BLAS counts by
   columns, so that it is asked for Cᵀ = Bᵀ Aᵀ. */
static void product(const Job *job, char ta, const float *a, char tb, const float *b,
                    float *c, int m, int i, int k) {
  const float one = 1, zero = 0;
  const int *lda = ta == 'T' ? &m : &i, *ldb = tb == 'T' ? &i : &k;
  job->sgemm(&tb, &ta, &k, &m, &i, &one, b, ldb, a, lda, &zero, c, &k);
}

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));

/* What is not 0 in a matrix: row r has `value`s at `place`s from start[r] to start[r+1]. */
typedef struct {
  int *start, *place;
  float *value;
} Sparse;

/* C (rows, columns) = A B with A sparse: so many columns at a time that the part of B
   stays in the cache, and a row of C in registers. */
static void sparse_product(const Sparse *a, const float *b, float *c, int rows,
                           int columns) {
  int j = 0;
#define COLUMNS(wide)                                                    \
  for (; j + wide * LANES <= columns; j += wide * LANES)                 \
    for (int row = 0; row < rows; row++) {                               \
      Lanes sum[wide] = {{0}}, part;                                     \
      for (int i = a->start[row]; i < a->start[row + 1]; i++) {          \
        const float *other = b + (int64_t)a->place[i] * columns + j;     \
        _Pragma("GCC unroll 8") for (int k = 0; k < wide; k++) {         \
          memcpy(&part, other + k * LANES, sizeof part);                 \
          sum[k] += a->value[i] * part;                                  \
        }                                                                \
      }                                                                  \
      memcpy(c + (int64_t)row * columns + j, sum, sizeof sum);           \
    }
  COLUMNS(WIDE)
  COLUMNS(1)
  for (; j < columns; j++)
    for (int row = 0; row < rows; row++) {
      float sum = 0;
      for (int i = a->start[row]; i < a->start[row + 1]; i++)
        sum += a->value[i] * b[(int64_t)a->place[i] * columns + j];
      c[(int64_t)row * columns + j] = sum;
    }
}

/* x (n, in) without its zeros, and transposed. */
static void without_zeros(const float *x, int n, int in, Sparse *a, Sparse *t) {
  int count = 0;
  memset(t->start, 0, (in + 2) * sizeof(int));
  for (int row = 0; row < n; row++) {
    a->start[row] = count;
    for (int j = 0; j < in; j++, x++) {
      a->place[count] = j;
      a->value[count] = *x;
      count += *x != 0; /* kept, or overwritten by the next */
      t->start[j + 2] += *x != 0;
    }
  }
  a->start[n] = count;
  for (int j = 2; j < in + 2; j++) t->start[j] += t->start[j - 1];
  for (int row = 0, i = 0; row < n; row++)
    for (; i < a->start[row + 1]; i++) {
      int at = t->start[a->place[i] + 1]++; /* in the end it is the next row's start */
      t->place[at] = row;
      t->value[at] = a->value[i];
    }
}

/* e^x, wrong by at most some 1e-7 of it, without a branch: the compiler makes vectors of
   it. 2^i e^r with i whole and |r| ≤ ½ ln 2 (Cody & Waite; polynomial of Cephes). */
static inline float exp_of(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  float shifted = x * 1.44269504f + 12582912.0f; /* 1.5 · 2²³: i is in the last bits */
  float i = shifted - 12582912.0f, r = x - i * 0.693359375f + i * 2.12194440e-4f;
  float e = 1.9875691500e-4f;
  e = e * r + 1.3981999507e-3f;
  e = e * r + 8.3334519073e-3f;
  e = e * r + 4.1665795894e-2f;
  e = e * r + 1.6666665459e-1f;
  e = e * r + 5.0000001201e-1f;
  e = e * r * r + r + 1.0f;
  int32_t bits;
  float power;
  memcpy(&bits, &shifted, 4);
  bits = (int32_t)((uint32_t)bits << 23) + 0x3f800000; /* of 2^i */
  memcpy(&power, &bits, 4);
  return e * power;
}

/* h (n, out) ← activation(h + b); the last layer of a half has none. NaN stays NaN. */
static void add_bias(float *h, const float *b, int n, int out, int last, int is_tanh) {
  for (int row = 0; row < n; row++, h += out)
    if (last)
      for (int j = 0; j < out; j++) h[j] += b[j];
    else if (is_tanh) /* 2 sigmoid(2x) − 1 */
      for (int j = 0; j < out; j++)
        h[j] = 2.0f / (1.0f + exp_of(-2.0f * (h[j] + b[j]))) - 1.0f;
    else
      for (int j = 0; j < out; j++) h[j] = h[j] + b[j] < 0 ? 0 : h[j] + b[j];
}

/* h_i = activation(h_{i−1} W_iᵀ + b_i); h[0] (n, in) is given, in `sparse` if not NULL.
   `w` points at the half's first weight; returned is what lies behind its last. */
static const float *forward(const Job *job, const Half *half, const float *w, int n,
                            float **h, const Sparse *sparse) {
  for (int i = 0; i < half->layers; i++) {
    int in = half->widths[i], out = half->widths[i + 1];
    if (sparse && !i) sparse_product(sparse, w, h[i + 1], n, out);
    else product(job, 'N', h[i], 'T', w, h[i + 1], n, in, out);
    w += (int64_t)in * out;
    add_bias(h[i + 1], w, n, out, i + 1 == half->layers, job->is_tanh);
    w += out;
  }
  return w;
}

/* From d (n, out) = ∂loss/∂output to the gradients of the half's weights, and to
   ∂loss/∂h[0] in `dx` where it is wanted:
   dW_i = d_iᵀ h_{i−1}, db_i = Σ_n d_i, d_{i−1} = (d_i W_i) · activation'(h_{i−1}).
   `w` and `grad` point behind the half's last number; `spare`: two buffers, of which d
   may be the first; `sparse`: h[0] transposed, if not NULL. */
static void backward(const Job *job, const Half *half, const float *w, float *grad, int n,
                     float **h, float *d, float **spare, float *dx,
                     const Sparse *sparse) {
  for (int i = half->layers - 1; i >= 0; i--) {
    int in = half->widths[i], out = half->widths[i + 1];
    const float *below = h[i];
    w -= out + (int64_t)in * out;
    grad -= out;
    memset(grad, 0, out * sizeof(float));
    for (int row = 0; row < n; row++)
      for (int j = 0; j < out; j++) grad[j] += d[(int64_t)row * out + j];
    grad -= (int64_t)in * out;
    if (sparse && !i) sparse_product(sparse, d, grad, in, out);
    else product(job, 'T', d, 'N', below, grad, out, n, in);
    float *next = i ? (d == spare[0] ? spare[1] : spare[0]) : dx;
    if (next) product(job, 'N', d, 'N', w, next, n, out, in);
    if (!i) return;
    for (int64_t j = 0; j < (int64_t)n * in; j++)
      next[j] = job->is_tanh ? next[j] * (1 - below[j] * below[j])
                             : (below[j] > 0 ? next[j] : 0);
    d = next;
  }
}

/* At most LANES pixels: recon = softplus(l) − l x = max(l, 0) − log max(p, 1 − p) − l x
   with p = sigmoid(l), and d ← (p − x) · scale. The factors max(p, 1 − p) lie in [½, 1]:
   they are multiplied up, for one logarithm of many. */
static inline void pixels(const float *l, const float *x, float *d, int count,
                          float scale, float *linear, float *factors) {
  for (int j = 0; j < count; j++) {
    float p = 1.0f / (1.0f + exp_of(-l[j]));
    linear[j] += (l[j] < 0 ? 0 : l[j]) - l[j] * x[j];
    factors[j] *= p > 0.5f ? p : 1.0f - p;
    d[j] = (p - x[j]) * scale;
  }
}

/* recon of one image in nats, and its gradient by the logits, d (D,). */
static double recon_of(const float *l, const float *x, float *d, int D, float scale) {
  double recon = 0;
  for (int j = 0; j < D;) { /* 60 factors a lane, at least ½⁶⁰ */
    int end = D - j > 60 * LANES ? j + 60 * LANES : D;
    float linear[LANES] = {0}, factors[LANES];
    double all[2] = {1, 1}; /* of 8 lanes each, at least ½⁴⁸⁰ */
    for (int lane = 0; lane < LANES; lane++) factors[lane] = 1;
    for (; j + LANES <= end; j += LANES)
      pixels(l + j, x + j, d + j, LANES, scale, linear, factors);
    pixels(l + j, x + j, d + j, end - j, scale, linear, factors);
    j = end;
    for (int lane = 0; lane < LANES; lane++) {
      recon += linear[lane];
      all[lane % 2] *= factors[lane];
    }
    recon -= log(all[0]) + log(all[1]);
  }
  return recon;
}

/* `count` floats of a thread's scratch. */
static float *take(float **at, int64_t count) {
  float *taken = *at;
  *at += (count + ALIGNED - 1) / ALIGNED * ALIGNED;
  return taken;
}

/* One thread's part of a step: its gradient and its sums. `offset`: images before. */
static void part_of_step(const Job *job, const Steps *steps, int thread, int64_t step,
                         int64_t offset) {
  int D = job->pixels, C = job->classes, Z = job->latent, B = steps->sizes[step];
  int first = (int64_t)B * thread / job->threads;
  int n = (int64_t)B * (thread + 1) / job->threads - first, widest = 0;
  int64_t most = (job->batch + job->threads - 1) / job->threads;
  float *grad = job->grads + thread * job->numbers;
  float *at = job->scratch + thread * job->stride, *e[LAYERS + 1], *h[LAYERS + 1];
  double *sums = steps->sums + (thread * steps->count + step) * (3 + 2 * Z);
  for (int i = 0; i <= job->encoder.layers; i++) {
    e[i] = take(&at, most * job->encoder.widths[i]);
    widest = job->encoder.widths[i] > widest ? job->encoder.widths[i] : widest;
  }
  for (int i = 0; i <= job->decoder.layers; i++) {
    h[i] = take(&at, most * job->decoder.widths[i]);
    widest = job->decoder.widths[i] > widest ? job->decoder.widths[i] : widest;
  }
  float *spare[2] = {take(&at, most * widest), take(&at, most * widest)};
  float *grey = take(&at, most * D), *std = take(&at, most * Z);
  float *dz = take(&at, most * (Z + C)), *dq = take(&at, most * 2 * Z);
  float *q = e[job->encoder.layers], weight = steps->control[2 * step + 1] / B;
  const int64_t *rows = steps->rows + (offset += first);
  const float *target = steps->target ? steps->target + offset * D : grey;
  const float *x = steps->x ? steps->x + offset * D : target;
  const float *noise = steps->noise + offset * Z;
  Sparse lists[2], *input = job->sparse ? lists : 0, *inputs = job->sparse ? lists + 1 : 0;
  for (int i = 0; i < 2 * job->sparse; i++) { /* an int is as large as a float */
    lists[i].start = (int *)take(&at, i ? D + C + 2 : most + 1);
    lists[i].place = (int *)take(&at, most * (D + C) + 1);
    lists[i].value = take(&at, most * (D + C) + 1);
  }

  /* the encoder's input: pixels and the one-hot label, (n, D + C) */
  for (int64_t row = 0; row < n; row++) {
    const uint8_t *image = job->images + rows[row] * D;
    float *seen = e[0] + row * (D + C);
    if (!steps->target)
      for (int j = 0; j < D; j++) grey[row * D + j] = image[j] / 255.0f;
    memcpy(seen, x + row * D, D * sizeof(float));
    memset(seen + D, 0, C * sizeof(float));
    if (C) seen[D + job->labels[rows[row]]] = job->label_scale;
  }
  if (input) without_zeros(e[0], n, D + C, input, inputs);
  const float *between = forward(job, &job->encoder, job->weights, n, e, input);

  /* z = mu + σ noise with σ = e^(logvar / 2); kl = ½ Σ mu² + σ² − 1 − logvar */
  for (int64_t row = 0; row < n; row++) {
    const float *mu = q + row * 2 * Z, *logvar = mu + Z;
    float *z = h[0] + row * (Z + C); /* the decoder's input: z and the label */
    for (int j = 0; j < Z; j++) {
      float s = std[row * Z + j] = exp_of(0.5f * logvar[j]);
      z[j] = mu[j] + s * noise[row * Z + j];
      sums[1] += 0.5 * (mu[j] * mu[j] + s * s - 1 - logvar[j]);
      sums[3 + j] += mu[j];
      sums[3 + Z + j] += mu[j] * mu[j];
    }
    memcpy(z + Z, e[0] + row * (D + C) + D, C * sizeof(float));
  }
  const float *end = forward(job, &job->decoder, between, n, h, 0);

  const float *logits = h[job->decoder.layers]; /* (n, D) */
  for (int64_t at = 0; at < (int64_t)n * D; at += D)
    sums[0] += recon_of(logits + at, target + at, spare[0] + at, D, 1.0f / B);
  sums[2] = sums[0] + steps->control[2 * step + 1] * sums[1];
  backward(job, &job->decoder, end, grad + (end - job->weights), n, h, spare[0], spare,
           dz, 0);

  /* ∂kl/∂mu = mu, ∂kl/∂logvar = ½ (σ² − 1); through z: ∂z/∂mu = 1, ∂z/∂logvar = ½ σ noise */
  for (int64_t row = 0; row < n; row++)
    for (int j = 0; j < Z; j++) {
      float s = std[row * Z + j], slope = dz[row * (Z + C) + j], *d = dq + row * 2 * Z;
      d[j] = slope + weight * q[row * 2 * Z + j];
      d[Z + j] = 0.5f * (slope * s * noise[row * Z + j] + weight * (s * s - 1));
    }
  backward(job, &job->encoder, between, grad + (between - job->weights), n, e, dq, spare,
           0, inputs);
}

/* The sum of the threads' gradients from…to, into the first. */
static void add_grads(const Job *job, int64_t from, int64_t to) {
  float *sum = job->grads;
  for (int thread = 1; thread < job->threads; thread++) {
    const float *other = sum + thread * job->numbers;
    for (int64_t i = from; i < to; i++) sum[i] += other[i];
  }
}

/* Adam (Kingma & Ba 2015) with the decay of AdamW; `count` begins at 1. */
static void adam(const Job *job, int64_t from, int64_t to, float rate, double count) {
  float *w = job->weights, *m = job->mean, *v = job->square, keep = 1 - rate * job->decay;
  float b1 = job->beta1, b2 = job->beta2, root = 1 / sqrt(1 - pow(b2, count));
  float size = rate / (1 - pow(b1, count));
  for (int64_t i = from; i < to; i++) {
    float g = job->grads[i];
    m[i] += (1 - b1) * (g - m[i]);
    v[i] = b2 * v[i] + (1 - b2) * g * g;
    w[i] = w[i] * keep - size * m[i] / (sqrtf(v[i]) * root + job->eps);
  }
  if (!job->averaged) return;
  float *mean = job->averaged, part = (1 - job->ema) / (1 - pow(job->ema, count));
  for (int64_t i = from; i < to; i++) mean[i] += part * (w[i] - mean[i]);
}

static void *run_part(void *argument) {
  Shared *shared = ((Part *)argument)->shared;
  const Job *job = shared->job;
  const Steps *steps = shared->steps;
  int thread = ((Part *)argument)->thread, T = job->threads, spins = 0;
  int64_t offset = 0, share = (job->numbers / T + ALIGNED - 1) / ALIGNED * ALIGNED;
  int64_t from = thread * share < job->numbers ? thread * share : job->numbers;
  int64_t to = from + share < job->numbers ? from + share : job->numbers;
  while (!atomic_load(&shared->ready)) pause_after(&spins);
  if (atomic_load(&shared->ready) < 0) return 0;
  int before = job->product_threads(1);
#ifdef __SSE__ /* denormal numbers are 0, as torch.set_flush_denormal has it */
  unsigned csr = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(csr | 0x8040);
#endif
  for (int64_t step = 0; step < steps->count; offset += steps->sizes[step++]) {
    double count = steps->done + step + 1;
    float rate = steps->control[2 * step];
    part_of_step(job, steps, thread, step, offset);
    wait_for_all(shared);
    for (int64_t at = from; at < to; at += STRETCH) {
      int64_t end = at + STRETCH < to ? at + STRETCH : to;
      add_grads(job, at, end);
      adam(job, at, end, rate, count);
    }
    wait_for_all(shared);
  }
#ifdef __SSE__
  __builtin_ia32_ldmxcsr(csr);
#endif
  job->product_threads(before);
  return 0;
}

/* All steps, on job->threads threads with this one; 0, or why there is no thread. */
int run_steps(const Job *job, const Steps *steps) {
  pthread_t threads[THREADS];
  Part parts[THREADS];
  Shared shared = {.job = job, .steps = steps};
  int begun = 1, fault = 0;
  for (int thread = 0; thread < job->threads; thread++)
    parts[thread] = (Part){&shared, thread};
  while (begun < job->threads && !fault) {
    fault = pthread_create(&threads[begun], 0, run_part, &parts[begun]);
    begun += !fault;
  }
  atomic_store(&shared.ready, fault ? -1 : 1);
  run_part(&parts[0]);
  while (--begun) pthread_join(threads[begun], 0);
  return fault;
}
