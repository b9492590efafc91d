/** An answer made ready to be drawn, pointed at and measured. Colors follow model/runtime/overlay.py. */

import { tellApart } from "./neighbors.js";
import { traceRings, toPath } from "./outline.js";
import { cutOut, moments, unpack } from "./rle.js";

/**
 * @typedef {import("./rle.js").Cut} Cut
 * @typedef {import("./rle.js").Moments} Moments
 * @typedef {[number, number, number]} Color
 * @typedef {{width: number, height: number, objects: Found[]}} Scene  objects in falling score
 */

/**
 * Color-blind safe (Okabe and Ito), as the server draws.
 *
 * @type {readonly Color[]}
 */
export const PALETTE = [
  [0, 114, 178],
  [230, 159, 0],
  [0, 158, 115],
  [204, 121, 167],
  [86, 180, 233],
  [213, 94, 0],
  [240, 228, 66],
];

/** One detection. What takes time and not everybody needs is computed when it is first asked for. */
export class Found {
  /**
   * @param {object} answer  of POST /predict with masks=rle, or without masks
   * @param {number} index
   * @param {Color} color
   */
  constructor(answer, index, color) {
    this.index = index;
    /** @type {string} */
    this.label = answer.labels[index];
    /** @type {number} */
    this.labelId = answer.label_ids[index];
    /** @type {number} */
    this.score = answer.scores[index];
    /** @type {[number, number, number, number]} */
    this.box = answer.boxes[index];
    /** @type {[number, number, number][]} */
    this.keypoints = answer.keypoints?.[index] ?? [];
    this.color = color;
    this.imageHeight = answer.image.height;
    this.runs = answer.masks ? unpack(answer.masks[index]) : null;
    /** @type {Moments | null} null without a mask */
    this.moments = this.runs && moments(this.runs, this.imageHeight);
  }

  /** @returns {Cut | null} null without a mask, or if it is empty */
  get cut() {
    return keep(this, "cut", this.runs && cutOut(this.runs, this.imageHeight));
  }

  /** @returns {number[][]} */
  get rings() {
    return keep(this, "rings", this.cut ? traceRings(this.cut) : []);
  }

  /** @returns {Path2D | null} null without a mask, or if it is empty */
  get path() {
    return keep(this, "path", this.cut && toPath(this.rings));
  }
}

/**
 * @param {object} answer
 * @param {number} classes  how many the model knows; with several a color stands for a class, with one for an object
 * @returns {Scene}
 * @throws {Error} when a mask is malformed
 */
export function buildScene(answer, classes) {
  const { width, height } = answer.image;
  const groups = classes > 1 ? answer.label_ids.map(classGroup) : tellApart(answer.boxes, width, height, PALETTE.length);
  return { width, height, objects: groups.map((group, index) => new Found(answer, index, PALETTE[group])) };
}

/**
 * The palette entry of a class.
 *
 * @param {number} labelId  from 1
 */
export function classGroup(labelId) {
  return (labelId - 1) % PALETTE.length;
}

/**
 * The object at a point: of those whose mask, or box if they have none, holds it, the smallest.
 *
 * @param {Found[]} objects  those that can be seen
 * @param {number} x  pixels of the image
 * @param {number} y
 * @returns {Found | null}
 */
export function objectAt(objects, x, y) {
  let best = null;
  for (const found of objects) {
    const { left, top, right, bottom } = extentOf(found);
    if (x < left || y < top || x >= right || y >= bottom) continue; // most are told by this, and need no cut
    const holds = !found.cut || cutHolds(found.cut, Math.floor(x), Math.floor(y));
    if (holds && (best === null || areaOf(found) < areaOf(best))) best = found;
  }
  return best;
}

/**
 * The rectangle that an object fills, in pixels of the image: its mask's, or its box where that has no pixels.
 *
 * @param {Found} found
 * @returns {{left: number, top: number, right: number, bottom: number}}
 */
export function extentOf({ moments: known, box: [left, top, right, bottom] }) {
  return known?.area ? known : { left, top, right, bottom };
}

/**
 * Pixels of the mask, or of the box where there is none.
 *
 * @param {Found} found
 */
export function areaOf({ moments: known, box: [x1, y1, x2, y2] }) {
  return known ? known.area : (x2 - x1) * (y2 - y1);
}

function cutHolds({ x: left, y: top, width, height, bits }, x, y) {
  return x >= left && y >= top && x < left + width && y < top + height && bits[(y - top) * width + x - left] === 1;
}

/** Put a getter's value in its place. */
function keep(object, name, value) {
  Object.defineProperty(object, name, { value });
  return value;
}
