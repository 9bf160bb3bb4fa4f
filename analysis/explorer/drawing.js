// A pad to draw a digit on. Strokes are kept as lines, so that a small digit and a large
// one get the same pen when they are brought to MNIST's size.

const SIZE = 28;
const BOX = 20; // MNIST: the longer side of a digit
const PEN = 2.3; // pixels of a 28 × 28 image: about the pen of MNIST
const MIDDLE = 14.5; // MNIST: the centre of mass, to half a pixel: the middle of pixel 14
const FINER = 8; // pixels drawn for one of the image, each way

/** Lines drawn into an image of 28 × 28, in [0, 1], after `place`; antialiased by hand. */
function rasterise(strokes, place) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIZE * FINER;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.scale(FINER, FINER);
  trace(context, strokes.map((stroke) => stroke.map(place)), PEN, "#fff");
  const { data } = context.getImageData(0, 0, SIZE * FINER, SIZE * FINER);
  const image = new Float64Array(SIZE * SIZE);
  for (let y = 0; y < SIZE * FINER; y++) {
    for (let x = 0; x < SIZE * FINER; x++) {
      const pixel = Math.floor(y / FINER) * SIZE + Math.floor(x / FINER);
      image[pixel] += data[4 * (y * SIZE * FINER + x) + 3];
    }
  }
  return image.map((sum) => sum / (255 * FINER * FINER));
}

function trace(context, strokes, width, colour) {
  Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round", strokeStyle: colour });
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(...stroke[0]);
    for (const point of stroke) context.lineTo(...point);
    context.stroke();
  }
}

/**
 * Strokes as an image (784) as MNIST has them: brought into a box of 20 × 20 with their
 * proportions kept, then moved by whole pixels until the centre of mass is in the middle.
 */
function centred(strokes) {
  const points = strokes.flat();
  const range = [0, 1].map((axis) => {
    const values = points.map((point) => point[axis]);
    return [Math.min(...values), Math.max(...values)];
  });
  const longest = Math.max(...range.map(([low, high]) => high - low));
  const scale = Math.min((BOX - PEN) / Math.max(longest, 1e-9), 1); // a dot stays a dot
  const middle = range.map(([low, high]) => (low + high) / 2);
  const at = (dx, dy) => ([x, y]) => [
    SIZE / 2 + (x - middle[0]) * scale + dx,
    SIZE / 2 + (y - middle[1]) * scale + dy,
  ];
  return toMiddle((dx, dy) => rasterise(strokes, at(dx, dy)));
}

/** `drawn(dx, dy)`, an image (784), moved by whole pixels as MNIST is: see MIDDLE. */
function toMiddle(drawn) {
  let [mass, left, top] = [0, 0, 0];
  drawn(0, 0).forEach((value, pixel) => {
    mass += value;
    left += value * ((pixel % SIZE) + 0.5);
    top += value * (Math.floor(pixel / SIZE) + 0.5);
  });
  return drawn(...[MIDDLE - left / mass, MIDDLE - top / mass].map(Math.round));
}

class Pad {
  constructor(canvas, drawn) {
    Object.assign(this, { canvas, drawn, strokes: [], pointer: null });
    canvas.addEventListener("pointerdown", (event) => {
      if (this.pointer !== null || event.button > 0) return; // one stroke at a time
      this.pointer = event.pointerId;
      canvas.setPointerCapture(event.pointerId);
      this.image = null;
      this.strokes.push([this.#place(event)]);
      this.#changed(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this.pointer) return;
      const parts = event.getCoalescedEvents?.() ?? [];
      this.strokes.at(-1).push(...(parts.length ? parts : [event]).map((e) => this.#place(e)));
      this.#changed(event);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => {
        if (event.pointerId !== this.pointer) return; // pressed elsewhere, or a second one
        this.pointer = null;
        drawn(centred(this.strokes), true);
      });
    }
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #changed(event) {
    event.preventDefault();
    this.show();
    this.drawn(centred(this.strokes), false);
  }

  show() {
    const { context, side } = sharp(this.canvas);
    if (this.strokes.length) trace(context, this.strokes, side / 12, "#fff");
    else if (this.image) {
      const small = document.createElement("canvas");
      small.width = small.height = SIZE;
      paint(small, this.image);
      context.imageSmoothingEnabled = false;
      context.drawImage(small, 0, 0, side, side);
    }
  }

  /** Empties the pad, or puts an image (784) on it; a stroke under way ends. */
  clear(image = null) {
    Object.assign(this, { strokes: [], pointer: null, image });
    this.show();
  }
}
