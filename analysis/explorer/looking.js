// An image is looked at: encoded, shown on the plane, given back, scored under each label.

/** What is known of the image on the page; empty before there is one. */
const looked = { run: 0, x: null, y: 0, posterior: null, scores: [] };

/** mean and covariance on the plane of q(z|x,y) in units of the prior. */
function encoded(x, y) {
  const { mu, sigma } = model.encode(x, y);
  const u = model.prior.whiten(mu, y);
  const [a, b] = facts.axes;
  const flat = model.latent === 1;
  return {
    u,
    axes: facts.axes,
    mean: [u[a], flat ? 0 : u[b]],
    covariance: flat ? null : model.prior.covariance(sigma, y, a, b),
    points: [],
  };
}

/**
 * Shows the image x (784) as a digit `label`, or as the likeliest one; `final` asks for
 * the scores, too. `place` is its z in the twin, if that is known.
 */
function look(drawing, { label = null, final = true, place = null } = {}) {
  const x = facts.binarized ? drawing.map((value) => (value > 0.5 ? 1 : 0)) : drawing;
  const run = ++looked.run;
  const quick = Float64Array.from({ length: model.classes }, (_, y) => quickScore(model, x, y));
  const y = label ?? quick.indexOf(Math.max(...quick));
  Object.assign(looked, { x, scores: [] });
  lookAs(y);
  paint($("seen"), x);
  showScores();
  if (!final) return;
  const order = [...quick.keys()].sort((a, b) => quick[b] - quick[a]);
  score(run, order, label).catch(fail);
  if (twin) lookWithoutLabel(run, x, place).catch(fail);
}

/** Takes the image for a digit y: the point goes to its posterior's mean. */
function lookAs(y) {
  looked.y = y;
  looked.posterior = encoded(looked.x, y);
  setDigit(y);
  setU(looked.posterior.u);
  paintLogits($("back"), model.decodeAt(state.u, y));
  showZoom();
}

async function score(run, order, label) {
  const stopped = () => run !== looked.run;
  for (const [done, y] of order.entries()) {
    $("progress").textContent = `${done} of ${order.length} …`;
    const found = quadrature
      ? await quadrature.evidence(looked.x, y, stopped)
      : await importanceSampled(model, looked.x, y, noise, stopped);
    if (stopped() || !found) return;
    looked.scores[y] = found;
    showScores();
    if (y === looked.y) showTruth(found);
  }
  $("progress").textContent = "";
  const best = bestLabel();
  if (label === null && best !== looked.y) {
    lookAs(best);
    showTruth(looked.scores[best]);
  }
}

/** The twin has no label, and its encoder is not on the page: its posterior's mean. */
async function lookWithoutLabel(run, x, place) {
  if (place) return setV(place);
  if (!twinQuadrature) return;
  const found = await twinQuadrature.evidence(x, 0, () => run !== looked.run);
  if (!found) return;
  const mean = [0, 0];
  moments(found.points, (point) => Math.exp(twinQuadrature.mass(point)), mean);
  setV(mean.slice(0, twin.latent));
}

const bestLabel = () =>
  looked.scores.reduce((best, { logP }, y, all) => (logP > (all[best]?.logP ?? -Infinity) ? y : best), -1);

function showTruth({ points }) {
  looked.posterior.points = points;
  showZoom();
  request();
}

/** The posterior alone, enlarged to six standard deviations. */
function showZoom() {
  const { context, side } = sharp($("zoom"));
  const { posterior } = looked;
  if (!posterior) return;
  const [aa, , bb] = posterior.covariance ?? [0.01, 0, 0.01];
  const half = 6 * Math.sqrt(Math.max(aa, bb));
  drawPosterior(context, new View(side, ...posterior.mean, half), posterior);
  $("zoom-name").textContent = `handwritings z that fit this image (${(2 * half).toFixed(2)} wide); `
    + `dashed: the encoder's guess, 1 and 2 σ${posterior.points.length ? "; filled: the exact answer" : ""}`;
}

/** The table of label scores; rows that are not known yet are empty. */
function showScores() {
  const known = looked.scores.filter(Boolean).map(({ logP }) => logP);
  const [best, worst] = [Math.max(...known), Math.min(...known)];
  const total = logSumExp(known);
  const whole = known.length === model.classes;
  $("scores").hidden = !looked.x; // shown when there is something in it
  for (const [y, row] of [...$("scores").tBodies[0].rows].entries()) {
    const logP = looked.scores[y]?.logP;
    const [, value, bar, share] = row.cells;
    value.textContent = logP === undefined ? "" : logP.toFixed(2).replace("-", "−");
    bar.firstChild.hidden = logP === undefined;
    const width = logP === undefined ? 0 : 4 + (96 * (logP - worst)) / (best - worst || 1);
    bar.firstChild.style.width = `${width}%`;
    share.textContent = whole ? `${(100 * Math.exp(logP - total)).toFixed(1)} %` : "";
    row.classList.toggle("best", whole && logP === best);
  }
}

function makeScores() {
  for (let y = 0; y < model.classes; y++) {
    const row = $("scores").tBodies[0].insertRow();
    row.insertCell().textContent = y;
    row.insertCell();
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.hidden = true;
    row.insertCell().append(bar);
    row.cells[2].setAttribute("aria-hidden", "true");
    row.insertCell();
  }
}
