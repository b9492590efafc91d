/** What the parts of the page share: the user's wishes, and what is shown. */

import { byId } from "./elements.js";
import { unitOf } from "./units.js";

/**
 * @typedef {import("./scene.js").Found} Found
 * @typedef {import("./queue.js").Item} Item
 */

export const LAYERS = ["masks", "outlines", "boxes", "labels"];

/**
 * The user's wishes, which hold for all images. A threshold of null: each label's own, as the model sets them. The pixel
 * size, in µm, is for images that state none.
 *
 * @type {{
 *   models: object[], choice: import("./api.js").Query, model: object | null, threshold: number | null,
 *   hidden: Set<string>, pixelSize: number | null,
 * }}
 */
export const wishes = { models: [], choice: {}, model: null, threshold: null, hidden: new Set(), pixelSize: null };

/**
 * What is shown. `scene` is null unless the item is done.
 *
 * @type {{
 *   item: Item | null, scene: import("./scene.js").Scene | null, shown: Found[], pinned: Found | null,
 *   pointed: Found | null,
 * }}
 */
export const now = { item: null, scene: null, shown: [], pinned: null, pointed: null };

/** How many classes the model knows. */
export function classCount() {
  return Object.keys(wishes.model.labels).length;
}

/** What a detection of this label must score more than. */
export function thresholdOf(label) {
  const { score_thresholds: own, score_threshold: common } = wishes.model.defaults;
  return wishes.threshold ?? own[label] ?? common;
}

/** What detections must score more than, in rising order: one number, unless the model's labels have their own. */
export function thresholds() {
  return [...new Set(Object.values(wishes.model.labels).map(thresholdOf))].sort((a, b) => a - b);
}

/**
 * Positions of an answer's detections that the filters let through.
 *
 * @param {object} answer
 * @returns {number[]}
 */
export function passing({ scores, labels }) {
  return [...scores.keys()].filter((i) => scores[i] > thresholdOf(labels[i]) && !wishes.hidden.has(labels[i]));
}

/**
 * What an image's lengths and areas are told in: µm if its file or else the user says how large a pixel is.
 *
 * @param {object} answer
 */
export function unitOfImage({ image }) {
  return unitOf(image.pixel_size_um ?? (wishes.pixelSize && { x: wishes.pixelSize, y: wishes.pixelSize }));
}

/** The factor on differences from the picture's mean; the view alone has it. */
export function contrast() {
  return 2 ** (byId("contrast").value / 10);
}

/** @returns {import("./stage.js").Look} of the image that is shown */
export function look() {
  const layers = Object.fromEntries(LAYERS.map((layer) => [layer, byId(`layer-${layer}`).checked]));
  const unit = unitOfImage(now.item.result.answer);
  return { layers, opacity: byId("opacity").value / 100, contrast: contrast(), named: classCount() > 1, unit };
}

/** For screen readers. */
export function announce(words) {
  byId("status").textContent = words;
}

/** For everybody; "" takes it away. */
export function notify(words) {
  byId("notice").hidden = words === "";
  byId("notice-text").textContent = words;
}
