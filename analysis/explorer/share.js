// The state in the page's address, where the frame allows it; the page as a picture.

/** The address is left alone in a frame that does not allow it, such as MLflow's. */
function remember() {
  const words = new URLSearchParams({
    z: Array.from(state.u, (value) => value.toFixed(2)).join(","),
    digit: state.digit,
    temperature: state.temperature,
  });
  const [a, b] = state.ends;
  if (a && a.k < shipped) words.set("a", a.k);
  if (b && b.k < shipped) words.set("b", b.k);
  if (b && a) words.set("at", state.at);
  if (state.spherical) words.set("way", "spherical");
  try {
    history.replaceState(null, "", `#${words.toString().replaceAll("%2C", ",")}`);
  } catch {
    // a sandboxed frame has no history of its own
  }
}

/** What the address says; anything that is no number of its range is left out. */
function recalled() {
  const words = new URLSearchParams(location.hash.slice(1));
  const number = (name, low, high) => {
    const value = Number.parseFloat(words.get(name));
    return value >= low && value <= high ? value : null;
  };
  return { words, number };
}

function recall() {
  const { words, number } = recalled();
  const z = (words.get("z") ?? "").split(",").map(Number);
  if (z.length === model.latent && z.every(Number.isFinite)) {
    setU(z.map(clamp));
    state.v.set(facts.axes.map((i) => state.u[i] ?? 0).slice(0, state.v.length));
  }
  setDigit(Math.floor(number("digit", 0, model.classes - 1) ?? state.digit));
  setTemperature(number("temperature", 0, 2) ?? 1);
}

/** After the images are there; the point stays where z says. */
function recallEnds() {
  const { words, number } = recalled();
  state.spherical = words.get("way") === "spherical";
  document.getElementsByName("way")[state.spherical ? 1 : 0].checked = true;
  ["a", "b"].forEach((name, place) => {
    const k = number(name, 0, images.length - 1);
    if (k !== null && state.ends[place]?.k !== Math.floor(k)) setEnd(place, Math.floor(k));
  });
  $("between-at").value = state.at = number("at", 0, 1) ?? state.at;
  showStrip();
  request();
}

/**
 * Plane and digits as one PNG, shown on the page: a sandboxed frame allows no download,
 * but a picture can be copied.
 */
function showPicture() {
  const [side, tile, gap] = [480, 88, 8];
  const right = side + 4 * gap;
  const canvas = document.createElement("canvas");
  canvas.width = right + 5 * tile + 5 * gap;
  canvas.height = side + 9 * gap;
  const context = canvas.getContext("2d");
  context.fillStyle = css("--paper");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage($("plane"), gap, gap, side, side);
  context.imageSmoothingEnabled = false;
  const large = side - 2 * tile - 4 * gap;
  context.drawImage($("large"), right, gap, large, large);
  tiles.forEach((image, y) => {
    const left = right + (y % 5) * (tile + gap);
    const top = gap + large + 2 * gap + Math.floor(y / 5) * (tile + gap);
    context.drawImage(image, left, top, tile, tile);
  });
  context.fillStyle = css("--ink");
  context.font = "15px system-ui, sans-serif";
  context.fillText(`${facts.name}: ${$("status").textContent}`, gap, side + 6 * gap);
  const data = canvas.toDataURL("image/png");
  $("picture").querySelector("img").src = data;
  $("picture").querySelector("a").href = data;
  $("picture").hidden = false;
  $("close").focus();
}
