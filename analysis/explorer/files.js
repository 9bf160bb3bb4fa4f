// A digit in an image file, a photograph or a scan, made into an image as MNIST has them.

const LARGEST = 400; // pixels a side that a file is read with
const FAINTEST = 0.1; // contrast of ink to paper; with less there is no digit
const BODY = 0.25; // ink of what is the digit, where the paper is not even

/** Brightness in [0, 1] of an image file's pixels; what is transparent is white. */
async function brightness(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const { width, height } = canvas;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  Object.assign(context, { fillStyle: "#fff", imageSmoothingQuality: "high" });
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const values = Float64Array.from({ length: width * height }, (_, i) => {
    const [red, green, blue] = data.subarray(4 * i, 4 * i + 3);
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
  });
  return { values, width, height };
}

/**
 * Brightness as ink in [0, 1], and the box in which it is; null without a digit. Paper is
 * what most of the border shows; how uneven it is there is taken from all contrasts.
 */
function ink({ values, width, height }) {
  const border = values.filter((_, i) =>
    i % width === 0 || i % width === width - 1 || i < width || i >= width * (height - 1),
  ).sort();
  const paper = border[border.length >> 1];
  const way = paper > 0.5 ? -1 : 1; // dark on light, or light on dark
  const depth = values.map((value) => Math.max(0, way * (value - paper)));
  const most = depth.reduce((a, b) => Math.max(a, b), 0);
  if (most < FAINTEST) return null;
  const uneven = border.map((value) => way * (value - paper)).sort().at(Math.floor(0.95 * border.length));
  const floor = Math.max(0, Math.min(uneven, most / 2));
  const found = depth.map((value) => Math.max(0, (value - floor) / (most - floor)));
  const box = { left: width, top: height, right: 0, bottom: 0 };
  found.forEach((value, i) => {
    if (value <= (floor ? BODY : 0)) return;
    const [x, y] = [i % width, Math.floor(i / width)];
    box.left = Math.min(box.left, x);
    box.right = Math.max(box.right, x + 1);
    box.top = Math.min(box.top, y);
    box.bottom = Math.max(box.bottom, y + 1);
  });
  return { ink: found, width, box };
}

/** The box as an image (784): its longer side BOX pixels, each the mean of what it covers. */
function fitted({ ink, width, box }) {
  const { left, top, right, bottom } = box;
  const scale = BOX / Math.max(right - left, bottom - top);
  // whole pixels: an image of MNIST, whose scale is 1, is given back as it is
  const [x0, y0] = [(left + right) / 2, (top + bottom) / 2].map(Math.floor);
  return toMiddle((dx, dy) => {
    const image = new Float64Array(SIZE * SIZE);
    const parts = (from, middle, shift) => {
      // the pixels of the image that a pixel of the file lies in, with its share in each
      const low = SIZE / 2 + (from - middle) * scale + shift;
      const found = [];
      for (let at = Math.floor(low); at < low + scale; at++) {
        const share = Math.min(low + scale, at + 1) - Math.max(low, at);
        if (at >= 0 && at < SIZE && share > 1e-9) found.push([at, share]);
      }
      return found;
    };
    for (let y = top; y < bottom; y++) {
      const rows = parts(y, y0, dy);
      for (let x = left; x < right; x++) {
        const value = ink[y * width + x];
        if (!value) continue;
        for (const [column, a] of parts(x, x0, dx)) {
          for (const [row, b] of rows) image[row * SIZE + column] += value * a * b;
        }
      }
    }
    return image;
  });
}

/** An image file as an image (784) with nothing to say, or null and the reason. */
async function readImage(file) {
  let found;
  try {
    found = await brightness(file);
  } catch {
    return [null, `This browser cannot read ${file.name}. It reads PNG, JPEG, GIF and WebP.`];
  }
  const digit = ink(found);
  return digit ? [fitted(digit), ""] : [null, `No digit is seen in ${file.name}.`];
}

/** Looks at a digit in a file; it becomes a test image, and one end of the way. */
async function openFile(file, place) {
  await explorer.ready;
  const [x, reason] = await readImage(file);
  $("file-name").textContent = reason;
  if (!x) return;
  stop();
  pad.clear(x);
  look(x);
  const k = images.push(x) - 1;
  names.push(`${file.name}, read as a ${looked.y}`);
  facts.images.labels.push(looked.y);
  addThumb(k, (chosen) => choose(chosen));
  setEnd(place ?? state.next, k);
}

/** Files that are chosen, dropped anywhere on the page, or pasted. */
function takeFiles() {
  const open = (files, place) => [...files].forEach((file) => openFile(file, place).catch(fail));
  $("open").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    open($("file").files);
    $("file").value = ""; // the same file may be chosen again
  });
  document.addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    const end = event.target.closest?.(".end");
    open(event.dataTransfer.files, end ? "ab".indexOf(end.id.at(-1)) : undefined);
  });
  document.addEventListener("paste", (event) => open(event.clipboardData.files));
}
