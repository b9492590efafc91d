/** What the parts of the page share: the user's wishes, and what is shown. */

import { byId } from "./elements.js";

/**
 * @typedef {import("./scene.js").Found} Found
 * @typedef {import("./queue.js").Item} Item
 */

export const LAYERS = ["masks", "outlines", "boxes", "labels"];

/**
 * The user's wishes, which hold for all images.
 *
 * @type {{
 *   models: object[], choice: import("./api.js").Query, model: object | null, threshold: number, hidden: Set<string>,
 * }}
 */
export const wishes = { models: [], choice: {}, model: null, threshold: 0.5, hidden: new Set() };

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

/**
 * Positions of an answer's detections that the filters let through.
 *
 * @param {object} answer
 * @returns {number[]}
 */
export function passing({ scores, labels }) {
  return [...scores.keys()].filter((i) => scores[i] > wishes.threshold && !wishes.hidden.has(labels[i]));
}

/** @returns {import("./stage.js").Look} */
export function look() {
  const layers = Object.fromEntries(LAYERS.map((layer) => [layer, byId(`layer-${layer}`).checked]));
  return { layers, opacity: byId("opacity").value / 100, named: classCount() > 1 };
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
