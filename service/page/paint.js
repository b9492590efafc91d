/** Detections painted on canvases: the tint at the image's size, lines and labels at the screen's. */

import { areaOf, extentOf } from "./scene.js";
import { areaWords } from "./units.js";

/**
 * @typedef {import("./scene.js").Found} Found
 * @typedef {import("./scene.js").Scene} Scene
 * @typedef {{masks: boolean, outlines: boolean, boxes: boolean, labels: boolean}} Layers
 * @typedef {{x: number, y: number, wide: number, high: number}} Place  canvas pixels, from the picture's corner
 * @typedef {{scale: number, pen: number, view: Place, named: boolean, unit: import("./units.js").Unit}} Pen
 *   canvas pixels to a pixel of the image, canvas pixels to one of the screen, the part of the picture that the canvas
 *   covers, whether labels name the class, and what areas are told in
 */

const RIM = "rgba(16, 20, 26, 0.6)";
const MOST_TINTED = 16e6; // pixels of the tint's canvas, four bytes each
const FONT = "system-ui, sans-serif";
const SMALL = 20; // pixels on the screen; a smaller object gets a fine line without a rim

/** The CSS color of an object. */
export function cssColor([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

/**
 * Fill the canvas with the masks, opaque: how much shows through is up to whoever puts it on the picture.
 *
 * Small before large: a pixel is tinted once, so piled masks hide nothing, and one inside another keeps its color.
 *
 * @param {HTMLCanvasElement} canvas  resized to the image, or to a whole part of it if that is very large
 * @param {Scene} scene
 * @param {Found[]} objects
 */
export function paintTint(canvas, { width, height }, objects) {
  const step = Math.ceil(Math.sqrt((width * height) / MOST_TINTED));
  const [wide, high] = [Math.ceil(width / step), Math.ceil(height / step)];
  if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
  const image = new ImageData(wide, high);
  const words = new Uint32Array(image.data.buffer);
  for (const { cut, color } of [...objects].sort((a, b) => areaOf(a) - areaOf(b))) {
    if (!cut) continue;
    const word = wordOf(color);
    const startX = Math.ceil(cut.x / step);
    const startY = Math.ceil(cut.y / step);
    for (let y = startY; y * step < cut.y + cut.height; y++) {
      const row = (y * step - cut.y) * cut.width - cut.x;
      for (let x = startX; x * step < cut.x + cut.width; x++) {
        if (cut.bits[row + x * step] && words[y * wide + x] === 0) words[y * wide + x] = word;
      }
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/**
 * Draw outlines, boxes, keypoints and labels, the surest on top.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Found[]} objects  in falling score
 * @param {Layers} layers
 * @param {Pen} pen
 */
export function drawLines(context, objects, layers, pen) {
  const seen = objects.filter((found) => isIn(found, pen));
  const upwards = [...seen].reverse();
  if (layers.outlines) {
    // All rims first: none of them lies on a neighbor's line.
    for (const found of upwards) if (!isSmall(found, pen)) stroke(context, found, RIM, 3.2, pen);
    for (const found of upwards) stroke(context, found, cssColor(found.color), isSmall(found, pen) ? 1.1 : 1.7, pen);
  }
  for (const found of upwards) {
    if (layers.boxes || (layers.outlines && !found.path)) drawBox(context, found, pen);
    if (layers.outlines) drawKeypoints(context, found, pen);
  }
  if (layers.labels) drawLabels(context, seen, pen);
}

/**
 * Single one out: everything else recedes behind a veil.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Found} found
 * @param {Pen} pen
 */
export function drawFocus(context, found, pen) {
  const { view } = pen;
  const [x1, y1, x2, y2] = found.box.map((value) => value * pen.scale);
  context.fillStyle = "rgba(8, 12, 18, 0.45)";
  context.fillRect(view.x, view.y, view.wide, view.high);
  if (found.path) {
    context.globalCompositeOperation = "destination-out";
    withScale(context, pen.scale, () => context.fill(found.path, "evenodd"));
    context.globalCompositeOperation = "source-over";
    stroke(context, found, "white", 5, pen);
    stroke(context, found, cssColor(found.color), 2.5, pen);
  } else {
    context.clearRect(x1, y1, x2 - x1, y2 - y1);
    drawBox(context, found, pen);
  }
  drawKeypoints(context, found, pen);
  const text = `${found.label} ${found.score.toFixed(2)} · ${areaWords(areaOf(found), pen.unit)}`;
  setFont(context, 13, pen);
  const plate = plateSize(context, text, 13, pen);
  const above = y1 - plate.high - 4 * pen.pen;
  const y = above < view.y ? y2 + 4 * pen.pen : above;
  if (isIn(found, pen)) drawPlate(context, text, found, keepInside({ x: x1, y, ...plate }, view), 13, pen);
}

/** Whether anything of an object may lie in what the canvas covers. */
function isIn(found, { scale, view }) {
  const { left, top, right, bottom } = extentOf(found);
  const [x1, y1, x2, y2] = found.box;
  return (
    Math.max(right, x2) * scale >= view.x &&
    Math.max(bottom, y2) * scale >= view.y &&
    Math.min(left, x1) * scale <= view.x + view.wide &&
    Math.min(top, y1) * scale <= view.y + view.high
  );
}

function isSmall(found, { scale, pen }) {
  return Math.sqrt(areaOf(found)) * scale < SMALL * pen;
}

function stroke(context, { path }, style, width, { scale, pen }) {
  if (!path) return;
  context.strokeStyle = style;
  context.lineJoin = "bevel";
  withScale(context, scale, () => {
    context.lineWidth = (width * pen) / scale;
    context.stroke(path);
  });
}

function drawBox(context, { box, color }, { scale, pen }) {
  const [x1, y1, x2, y2] = box.map((value) => value * scale);
  for (const [style, width] of [[RIM, 3], [cssColor(color), 1.4]]) {
    context.strokeStyle = style;
    context.lineWidth = width * pen;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
}

function drawKeypoints(context, { keypoints, color }, { scale, pen }) {
  for (const [x, y, logit] of keypoints) {
    if (logit <= 0) continue; // nothing in the box looks like it
    context.beginPath();
    context.arc(x * scale, y * scale, 3 * pen, 0, 2 * Math.PI);
    context.fillStyle = cssColor(color);
    context.strokeStyle = RIM;
    context.lineWidth = 1.5 * pen;
    context.fill();
    context.stroke();
  }
}

/** The surest first; one that would lie on another is left out, and comes when there is room after zooming in. */
function drawLabels(context, objects, pen) {
  setFont(context, 12, pen);
  const placed = [];
  for (const found of objects) {
    const text = pen.named ? `${found.label} ${found.score.toFixed(2)}` : found.score.toFixed(2);
    const plate = plateSize(context, text, 12, pen);
    const [x1, y1, , y2] = found.box.map((value) => value * pen.scale);
    for (const y of [y1 - plate.high, y2, y1]) {
      const place = keepInside({ x: x1, y, ...plate }, pen.view);
      if (placed.some((other) => overlap(place, other))) continue;
      placed.push(place);
      drawPlate(context, text, found, place, 12, pen);
      break;
    }
  }
}

function drawPlate(context, text, { color }, { x, y, wide, high }, size, { pen }) {
  const [red, green, blue] = color;
  setFont(context, size, { pen });
  context.fillStyle = cssColor(color);
  context.beginPath();
  context.roundRect(x, y, wide, high, 3 * pen);
  context.fill();
  context.fillStyle = 0.3 * red + 0.6 * green + 0.1 * blue > 100 ? "black" : "white";
  context.textBaseline = "middle";
  context.fillText(text, x + 4 * pen, y + high / 2 + 0.5 * pen);
}

function setFont(context, size, { pen }) {
  context.font = `600 ${size * pen}px ${FONT}`;
}

function plateSize(context, text, size, { pen }) {
  return { wide: context.measureText(text).width + 8 * pen, high: (size + 5) * pen };
}

function keepInside({ x, y, wide, high }, view) {
  const inside = (value, least, room) => Math.max(least, Math.min(value, least + room));
  return { x: inside(x, view.x, view.wide - wide), y: inside(y, view.y, view.high - high), wide, high };
}

function overlap(a, b) {
  return a.x < b.x + b.wide && b.x < a.x + a.wide && a.y < b.y + b.high && b.y < a.y + a.high;
}

function withScale(context, scale, draw) {
  context.save();
  context.scale(scale, scale);
  draw();
  context.restore();
}

/** A color as ImageData's bytes in one word of this machine, opaque. */
function wordOf([red, green, blue]) {
  return new Uint32Array(new Uint8ClampedArray([red, green, blue, 255]).buffer)[0];
}
