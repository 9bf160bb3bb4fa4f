// Pictures on canvases; the test images of the page; the way between two of them.

const STRIP = 9; // images of the way
const NOTHING = new Float64Array(PIXELS);

/**
 * Pixels (784) in [0, 1] as grey, white ink on black. In a light theme the style sheet's
 * filter turns that round, but for canvases that change in every frame: a filter over
 * twelve of them takes a third of the frames. Those are painted as they are seen.
 */
function paint(canvas, image, left = 0) {
  const turned = canvas.classList.contains("live") && css("--invert").trim() === "1" ? 255 : 0;
  for (let i = 0; i < PIXELS; i++) {
    // opaque, and the same byte for red, green and blue
    paint.bytes[i] = 0xff000000 | ((Math.round(255 * image[i]) ^ turned) * 0x010101);
  }
  canvas.getContext("2d").putImageData(paint.picture, left, 0);
}
paint.picture = new ImageData(SIZE, SIZE);
paint.bytes = new Uint32Array(paint.picture.data.buffer);

function paintLogits(canvas, logits, left) {
  for (let i = 0; i < PIXELS; i++) paintLogits.pixels[i] = sigmoid(logits[i]);
  paint(canvas, paintLogits.pixels, left);
}
paintLogits.pixels = new Float64Array(PIXELS);

/** Between two u: on the line, or on the arc, whose length goes evenly from a's to b's. */
function between(a, b, t, spherical) {
  const norm = (u) => Math.sqrt(u.reduce((sum, value) => sum + value * value, 0));
  const [p, q] = [norm(a), norm(b)];
  const dot = a.reduce((sum, value, i) => sum + value * b[i], 0);
  const angle = Math.acos(Math.max(-1, Math.min(1, dot / (p * q || 1))));
  if (!spherical || !(p * q) || Math.sin(angle) < 1e-6) {
    return a.map((value, i) => (1 - t) * value + t * b[i]); // no arc is defined
  }
  const [here, there] = [Math.sin((1 - t) * angle) / p, Math.sin(t * angle) / q];
  const length = ((1 - t) * p + t * q) / Math.sin(angle);
  return a.map((value, i) => length * (here * value + there * b[i]));
}

/** A button for image k; `chosen(k)` when it is pressed. */
function addThumb(k, chosen) {
  const button = document.createElement("button");
  button.setAttribute("aria-label", names[k][0].toUpperCase() + names[k].slice(1));
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIZE;
  canvas.className = "image";
  paint(canvas, images[k]);
  button.append(canvas);
  button.draggable = true;
  button.addEventListener("click", () => chosen(k));
  button.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/plain", k));
  $("thumbs").append(button);
}

/** A place for an end of the way: press it to fill it next, or drop an image on it. */
function makeEnd(button, pressed, dropped) {
  button.addEventListener("click", pressed);
  button.addEventListener("dragover", (event) => event.preventDefault());
  button.addEventListener("drop", (event) => {
    event.preventDefault();
    const k = Number.parseInt(event.dataTransfer.getData("text/plain"), 10);
    if (Number.isInteger(k)) dropped(k);
  });
}
