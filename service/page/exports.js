/** Files to download: COCO and CSV. */

import { measure } from "./measure.js";
import { areaOf } from "./scene.js";
import { toPolygons } from "./outline.js";
import { planeWords } from "./planes.js";

/**
 * @typedef {import("./scene.js").Found} Found
 * @typedef {import("./scene.js").Scene} Scene
 * @typedef {{file: string, scene: Scene, answer: object, unit: import("./units.js").Unit, objects: Found[]}} Sheet
 *   one image's name, answer, what it is measured in, and those of its objects that are wanted
 */

const COLUMNS = [
  ["label", "label"],
  ["score", "score"],
  ["x1", "x1"],
  ["y1", "y1"],
  ["x2", "x2"],
  ["y2", "y2"],
  ["width_px", "width"],
  ["height_px", "height"],
  ["area_px", "area"],
  ["equivalent_diameter_px", "diameter"],
  ["center_x", "centerX"],
  ["center_y", "centerY"],
  ["area_um2", "areaUm2"],
  ["equivalent_diameter_um", "diameterUm"],
];

/**
 * One row a detection, as RFC 4180 has it. What is unknown is empty; planes have a column where there is a stack.
 *
 * @param {Sheet[]} sheets
 */
export function toCsv(sheets) {
  const stacks = sheets.some(({ answer }) => answer.image.plane);
  const rows = [["image", ...(stacks ? ["plane"] : []), "object", ...COLUMNS.map(([name]) => name)]];
  for (const { file, answer, unit, objects } of sheets) {
    const image = stacks ? [file, planeWords(answer.image.plane)] : [file];
    for (const found of objects) {
      const row = measure(found, unit);
      rows.push([...image, found.index + 1, ...COLUMNS.map(([, key]) => cell(row[key]))]);
    }
  }
  return rows.map((row) => row.map(quote).join(",") + "\r\n").join("");
}

/**
 * A whole COCO file. Boxes are x, y, width, height; an annotation's score stands in `score`.
 *
 * @param {Sheet[]} sheets
 * @param {Record<string, string>} labels  label id -> name
 * @param {"polygons" | "rle"} form  polygons are what annotation tools import, but they fill holes
 */
export function toCoco(sheets, labels, form) {
  const annotations = sheets.flatMap(({ answer, objects }, image) =>
    objects.map((found) => {
      const [x1, y1, x2, y2] = found.box;
      const annotation = { image_id: image + 1, category_id: found.labelId };
      Object.assign(annotation, { bbox: [x1, y1, x2 - x1, y2 - y1].map(rounded), area: areaOf(found) });
      Object.assign(annotation, { iscrowd: 0, score: found.score });
      if (answer.masks && form === "rle") annotation.segmentation = answer.masks[found.index];
      if (answer.masks && form === "polygons") annotation.segmentation = toPolygons(found.rings);
      return annotation;
    }),
  );
  return {
    info: { description: "Detections by maskserve", date_created: new Date().toISOString() },
    licenses: [],
    images: sheets.map(({ file, scene }, image) => ({
      id: image + 1,
      file_name: file,
      width: scene.width,
      height: scene.height,
    })),
    annotations: annotations.map((annotation, index) => ({ id: index + 1, ...annotation })),
    categories: Object.entries(labels).map(([id, name]) => ({ id: Number(id), name, supercategory: "" })),
  };
}

/**
 * @param {Blob} blob
 * @param {string} name
 */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the download has begun by then
}

function cell(value) {
  return typeof value === "number" ? rounded(value) : (value ?? "");
}

function rounded(value) {
  return Math.round(value * 1000) / 1000;
}

function quote(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
