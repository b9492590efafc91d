/** What is measured: one row for each object, and what a whole picture comes to. */

import { areaOf, extentOf } from "./scene.js";
import { PIXELS } from "./units.js";

/**
 * @typedef {import("./scene.js").Found} Found
 * @typedef {{
 *   label: string, score: number, x1: number, y1: number, x2: number, y2: number, width: number, height: number,
 *   area: number, diameter: number, centerX: number, centerY: number, areaUm2: number | null, diameterUm: number | null,
 * }} Row  pixels; `area` is the mask's, or the box's where there is none, `diameter` that of a disc of this area; both
 *   also in micrometers, null where nobody knows
 * @typedef {{
 *   count: number, covered: number, mean: number, median: number, deviation: number, least: number, most: number,
 *   diameter: number,
 * }} Summary  areas in pixels, `covered` from 0 to 1, `diameter` the mean
 */

const BAND = 512; // rows looked at together, which bounds the memory

/**
 * @param {Found} found
 * @param {import("./units.js").Unit} [unit]
 * @returns {Row}
 */
export function measure(found, unit = PIXELS) {
  const [x1, y1, x2, y2] = found.box;
  const area = areaOf(found);
  const center = found.moments?.area ? found.moments : { x: (x1 + x2) / 2, y: (y1 + y2) / 2 };
  const diameter = 2 * Math.sqrt(area / Math.PI);
  return {
    label: found.label,
    score: found.score,
    x1,
    y1,
    x2,
    y2,
    width: x2 - x1,
    height: y2 - y1,
    area,
    diameter,
    centerX: center.x,
    centerY: center.y,
    areaUm2: unit.known ? area * unit.area : null,
    diameterUm: unit.known ? diameter * unit.length : null,
  };
}

/**
 * @param {Found[]} objects
 * @param {number} width  of the image
 * @param {number} height
 * @returns {Summary | null} null when there is nothing to sum up
 */
export function summarize(objects, width, height) {
  if (objects.length === 0) return null;
  const areas = objects.map(areaOf).sort((a, b) => a - b);
  const count = areas.length;
  const mean = sum(areas) / count;
  return {
    count,
    covered: coveredPixels(objects, width, height) / (width * height),
    mean,
    median: (areas[(count - 1) >> 1] + areas[count >> 1]) / 2,
    deviation: Math.sqrt(sum(areas.map((area) => (area - mean) ** 2)) / Math.max(1, count - 1)),
    least: areas[0],
    most: areas[count - 1],
    diameter: sum(objects.map((found) => measure(found).diameter)) / count,
  };
}

/**
 * Pixels under at least one object.
 *
 * @param {Found[]} objects
 * @param {number} width
 * @param {number} height
 * @returns {number}
 */
export function coveredPixels(objects, width, height) {
  const seen = new Uint8Array(width * Math.min(height, BAND));
  let covered = 0;
  for (let top = 0; top < height; top += BAND) {
    seen.fill(0);
    for (const found of objects) covered += coverBand(seen, found, top, width, height);
  }
  return covered;
}

/** Mark an object's pixels in the rows of a band; how many were not yet. */
function coverBand(seen, found, top, width, height) {
  const extent = extentOf(found);
  if (extent.bottom <= top || extent.top >= top + BAND) return 0;
  const { x, y, width: wide, height: high, bits } = found.cut ?? boxCut(found, width, height);
  let covered = 0;
  for (let row = Math.max(0, top - y); row < Math.min(high, top + BAND - y); row++) {
    const to = (y + row - top) * width + x;
    for (let column = 0; column < wide; column++) {
      if ((bits === null || bits[row * wide + column]) && !seen[to + column]) {
        seen[to + column] = 1;
        covered++;
      }
    }
  }
  return covered;
}

/**
 * Bins of equal and round width over all values; the last one holds its upper edge too.
 *
 * @param {number[]} values  at least one
 * @param {number} bins  about how many
 * @param {number} [finest]  the least step between values, which no bin is narrower than
 * @returns {{start: number, width: number, counts: number[]}}
 */
export function histogram(values, bins, finest = 1) {
  // Not Math.min(...values): there may be more of them than a function takes arguments.
  const [least, most] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const rough = Math.max((most - least) / bins, finest);
  const power = 10 ** Math.floor(Math.log10(rough));
  const width = [1, 2, 5, 10].map((step) => step * power).find((step) => step >= rough) ?? 10 * power;
  const start = Math.floor(least / width) * width;
  const counts = new Array(Math.max(1, Math.ceil((most - start) / width))).fill(0);
  for (const value of values) {
    const bin = Math.floor((value - start) / width);
    counts[Math.max(0, Math.min(counts.length - 1, bin))]++; // rounding may put an edge on its other side
  }
  return { start, width, counts };
}

/** The pixels that a box touches, where there is no mask; an empty mask covers nothing. */
function boxCut({ moments, box: [x1, y1, x2, y2] }, width, height) {
  if (moments) return { x: 0, y: 0, width: 0, height: 0, bits: null };
  const [x, y] = [Math.max(0, Math.floor(x1)), Math.max(0, Math.floor(y1))];
  return { x, y, width: Math.min(width, Math.ceil(x2)) - x, height: Math.min(height, Math.ceil(y2)) - y, bits: null };
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}
