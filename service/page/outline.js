/** A mask's outline along pixel edges: exact rings for export, and a path with softened steps for the eye. */

/** @typedef {import("./rle.js").Cut} Cut */

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up
const CUT = 1.5; // pixels

/**
 * The rings around a mask and its holes, each a flat list x, y, x, y, ... of corners in pixels of the image.
 *
 * The mask lies to the right of the way, so a ring around it is clockwise as seen and one around a hole is not. Parts
 * that touch at a corner only are apart.
 *
 * @param {Cut} cut
 * @returns {number[][]}
 */
export function traceRings({ x: left, y: top, width, height, bits }) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x] === 1;
  const seen = new Uint8Array(width * height); // pixels whose upper edge is in a ring
  const rings = [];
  for (let startY = 0; startY < height; startY++) {
    for (let startX = 0; startX < width; startX++) {
      const start = startY * width + startX;
      if (!bits[start] || seen[start] || (startY > 0 && bits[start - width])) continue;
      const ring = [];
      let [x, y, way] = [startX, startY, 0];
      do {
        if (way === 0) seen[y * width + x] = 1;
        const [stepX, stepY] = STEPS[way];
        x += stepX;
        y += stepY;
        // The two pixels ahead of the corner (x, y), to the right and to the left of the way.
        const aheadRight = inside(x - (stepX < 0 || stepY > 0), y - (stepX < 0 || stepY < 0));
        const aheadLeft = inside(x - (stepX < 0 || stepY < 0), y - (stepX > 0 || stepY < 0));
        if (!aheadRight || aheadLeft) {
          ring.push(left + x, top + y);
          way = (way + (aheadRight ? 3 : 1)) % 4;
        }
      } while (x !== startX || y !== startY || way !== 0);
      rings.push(ring);
    }
  }
  return rings;
}

/**
 * The rings as one path in pixels of the image. Each corner is cut off by a pixel and a half at most, which turns the
 * stairs of a slanted edge into a line and leaves a rectangle a rectangle.
 *
 * @param {number[][]} rings
 * @returns {Path2D}
 */
export function toPath(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    let [fromX, fromY] = ring.slice(-2);
    let begun = false;
    const go = (x, y) => {
      if (begun) path.lineTo(x, y);
      else path.moveTo(x, y);
      begun = true;
    };
    for (let i = 0; i < ring.length; i += 2) {
      const [x, y] = [ring[i], ring[i + 1]];
      const share = CUT / (Math.abs(x - fromX) + Math.abs(y - fromY)); // of an edge, which is upright or level
      if (share >= 0.5) go((fromX + x) / 2, (fromY + y) / 2);
      else {
        go(fromX + share * (x - fromX), fromY + share * (y - fromY));
        go(x + share * (fromX - x), y + share * (fromY - y));
      }
      [fromX, fromY] = [x, y];
    }
    path.closePath();
  }
  return path;
}

/**
 * COCO's polygons: the rings around the parts. It has no holes, so those are filled.
 *
 * @param {number[][]} rings
 * @returns {number[][]}
 */
export function toPolygons(rings) {
  return rings.filter((ring) => signedArea(ring) > 0);
}

function signedArea(ring) {
  let twice = 0;
  for (let i = 0; i < ring.length; i += 2) {
    const next = (i + 2) % ring.length;
    twice += ring[i] * ring[next + 1] - ring[next] * ring[i + 1];
  }
  return twice / 2;
}
