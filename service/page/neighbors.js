/** Colors that tell neighbors apart. */

/** @typedef {[number, number, number, number]} Box  x1, y1, x2, y2 */

/**
 * A color for each object, from 0: the one whose nearest use so far is farthest away. It depends on the objects before
 * it only, so a higher score threshold recolors nothing.
 *
 * @param {Box[]} boxes
 * @param {number} width  of the image
 * @param {number} height
 * @param {number} colors
 * @returns {number[]}
 */
export function tellApart(boxes, width, height, colors) {
  const grid = new Grid(width, height, boxes.length);
  return boxes.map((box) => {
    const pixels = wholePixels(box, width, height);
    const nearest = grid.nearest(pixels, colors);
    const color = nearest.indexOf(Math.max(...nearest));
    grid.add(pixels, color);
    return color;
  });
}

/** Boxes by the cells that they touch, so that what is near is found without looking at all of them. */
class Grid {
  constructor(width, height, count) {
    this.side = Math.ceil(Math.sqrt((width * height) / Math.max(1, count))); // about an object a cell
    this.columns = Math.ceil(width / this.side);
    this.rows = Math.ceil(height / this.side);
    /** @type {{box: Box, color: number}[][]} */
    this.cells = Array.from({ length: this.columns * this.rows }, () => []);
  }

  add(box, color) {
    const [left, top, right, bottom] = this.#touched(box);
    for (let row = top; row <= bottom; row++) {
      for (let column = left; column <= right; column++) this.cells[row * this.columns + column].push({ box, color });
    }
  }

  /** The distance to the nearest box of each color, Infinity where there is none. */
  nearest(box, colors) {
    const nearest = new Array(colors).fill(Infinity);
    const [left, top, right, bottom] = this.#touched(box);
    const most = Math.max(this.columns, this.rows);
    // Whatever touches no cell up to so many cells away is farther away than their sides.
    for (let away = 0; away <= most && Math.max(...nearest) > (away - 1) * this.side; away++) {
      for (let row = Math.max(0, top - away); row <= Math.min(this.rows - 1, bottom + away); row++) {
        const edge = away === 0 || row === top - away || row === bottom + away;
        const step = edge ? 1 : right - left + 2 * away; // between its ends a row has been seen before
        for (let column = left - away; column <= right + away; column += step) {
          if (column < 0 || column >= this.columns) continue;
          for (const other of this.cells[row * this.columns + column]) {
            nearest[other.color] = Math.min(nearest[other.color], gapOf(box, other.box));
          }
        }
      }
    }
    return nearest;
  }

  /** The first and the last column and row of the cells that a box touches: left, top, right, bottom. */
  #touched([x1, y1, x2, y2]) {
    return [x1, y1, x2 - 1, y2 - 1].map((value) => Math.floor(value / this.side));
  }
}

/** Boxes that overlap are at a negative distance, the more so the deeper they do. */
function gapOf([x1, y1, x2, y2], [left, top, right, bottom]) {
  return Math.max(Math.max(left, x1) - Math.min(right, x2), Math.max(top, y1) - Math.min(bottom, y2));
}

function wholePixels([x1, y1, x2, y2], width, height) {
  const left = Math.max(0, Math.min(Math.floor(x1), width - 1));
  const top = Math.max(0, Math.min(Math.floor(y1), height - 1));
  const right = Math.max(left + 1, Math.min(Math.ceil(x2), width));
  return [left, top, right, Math.max(top + 1, Math.min(Math.ceil(y2), height))];
}
