/** Pixels or micrometers: what lengths and areas are told in. */

import { readable } from "./elements.js";

/**
 * @typedef {{length: number, area: number, lengthName: string, areaName: string, known: boolean}} Unit
 *   micrometers to a pixel and square micrometers to one; both 1 where nobody knows
 */

/** @type {Unit} */
export const PIXELS = { length: 1, area: 1, lengthName: "px", areaName: "px", known: false };

const STATED_BY = { ome: "OME", imagej: "ImageJ", tiff: "TIFF" };
const DIGITS = 4; // of a number in µm

/**
 * @param {{x: number, y: number} | null | undefined} pixelSize  in µm
 * @returns {Unit} where pixels are not square, `length` is the side of a square one of the same area
 */
export function unitOf(pixelSize) {
  if (!pixelSize) return PIXELS;
  const area = pixelSize.x * pixelSize.y;
  return { length: Math.sqrt(area), area, lengthName: "µm", areaName: "µm²", known: true };
}

/**
 * An area for reading.
 *
 * @param {number} pixels
 * @param {Unit} unit
 * @param {number} [digits]  after the point, if it is in pixels
 */
export function areaWords(pixels, { area, areaName, known }, digits = 0) {
  return `${known ? significant(pixels * area) : readable(pixels, digits)} ${areaName}`;
}

/**
 * A length for reading.
 *
 * @param {number} pixels
 * @param {Unit} unit
 */
export function lengthWords(pixels, { length, lengthName, known }) {
  return `${known ? significant(pixels * length) : readable(pixels, 1)} ${lengthName}`;
}

/**
 * How large a file says that its pixels are.
 *
 * @param {{x: number, y: number, source: string}} pixelSize  in µm
 */
export function pixelSizeWords({ x, y, source }) {
  const sides = x === y ? significant(x) : `${significant(x)} × ${significant(y)}`;
  return `${sides} µm (${STATED_BY[source] ?? source})`;
}

function significant(value) {
  return value.toLocaleString("en", { maximumSignificantDigits: DIGITS });
}
