/**
 * COCO's run-length encoding, decoded: column-major runs that alternate between background and foreground.
 *
 * Each character holds five bits of a run, lowest first; bit 5 says that another follows, 48 makes it printable. From
 * the fourth run on it is the difference from the run two before.
 */

/**
 * @typedef {{size: [number, number], counts: string}} RLE  size is [height, width]
 * @typedef {{x: number, y: number, width: number, height: number, bits: Uint8Array}} Cut
 *   the rectangle that a mask fills, and its pixels in it, row by row, 0 or 1
 * @typedef {{
 *   area: number, x: number, y: number, left: number, top: number, right: number, bottom: number,
 * }} Moments  pixels, their center, where pixel 0's is at 0.5, and the rectangle that they fill; right and bottom are
 *   one past its last pixels
 */

/**
 * The run lengths of a compressed RLE.
 *
 * @param {RLE} rle
 * @returns {Uint32Array}
 * @throws {Error} when it is malformed or its runs do not fill the image
 */
export function unpack({ size: [height, width], counts }) {
  const runs = new Uint32Array(counts.length);
  let used = 0;
  let total = 0;
  for (let at = 0; at < counts.length; used++) {
    let value = 0;
    let scale = 1; // not a shift: a run may take more than 32 bits' worth of groups
    let more = true;
    while (more) {
      const group = at < counts.length ? counts.charCodeAt(at++) - 48 : -1;
      if (group < 0 || group > 63) throw new Error(`the RLE is malformed at character ${at}`);
      more = group >= 32;
      value += (group & 31) * scale;
      scale *= 32;
      if (!more && group & 16) value -= scale;
    }
    if (used > 2) value += runs[used - 2];
    if (value < 0 || (total += value) > height * width) throw new Error(`run ${used} of the RLE leaves the image`);
    runs[used] = value;
  }
  if (total !== height * width) throw new Error(`the RLE covers ${total} of ${height * width} pixels`);
  return runs.subarray(0, used);
}

/**
 * Area, center and extent of a mask, from its runs alone.
 *
 * @param {Uint32Array} runs
 * @param {number} height  of the image
 * @returns {Moments} the center of an empty mask is NaN, and its right lies left of its left
 */
export function moments(runs, height) {
  let [area, x, y] = [0, 0, 0];
  let [left, right, first, last] = [Infinity, 0, Infinity, 0];
  eachStretch(runs, height, (column, top, bottom) => {
    const length = bottom - top;
    area += length;
    x += length * (column + 0.5);
    y += (length * (top + bottom)) / 2;
    left = Math.min(left, column);
    right = column + 1;
    first = Math.min(first, top);
    last = Math.max(last, bottom);
  });
  return { area, x: x / area, y: y / area, left, top: first, right, bottom: last };
}

/**
 * A mask's pixels in just the rectangle that it fills.
 *
 * @param {Uint32Array} runs
 * @param {number} height  of the image
 * @returns {Cut | null} null when the mask is empty
 */
export function cutOut(runs, height) {
  let [left, right, first, last] = [Infinity, -1, Infinity, -1];
  eachStretch(runs, height, (column, top, bottom) => {
    left = Math.min(left, column);
    right = Math.max(right, column);
    first = Math.min(first, top);
    last = Math.max(last, bottom);
  });
  if (right < 0) return null;
  const cut = { x: left, y: first, width: right - left + 1, height: last - first };
  const bits = new Uint8Array(cut.width * cut.height);
  eachStretch(runs, height, (column, top, bottom) => {
    const end = (bottom - first) * cut.width;
    for (let at = (top - first) * cut.width + column - left; at < end; at += cut.width) bits[at] = 1;
  });
  return { ...cut, bits };
}

/**
 * Calls `take(column, top, bottom)` for the part of each foreground run in each column; bottom is one past its end.
 *
 * @param {Uint32Array} runs
 * @param {number} height
 * @param {(column: number, top: number, bottom: number) => void} take
 */
function eachStretch(runs, height, take) {
  let at = 0;
  for (let i = 0; i < runs.length; i++) {
    const end = at + runs[i];
    while (i % 2 && at < end) {
      const column = Math.floor(at / height);
      const bottom = Math.min(end - column * height, height);
      take(column, at - column * height, bottom);
      at = column * height + bottom;
    }
    at = end;
  }
}
