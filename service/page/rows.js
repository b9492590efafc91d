/** The list of images: a row each with its state, and how far all of them are. */

import { byId, make, objectsWord } from "./elements.js";
import { makeOption } from "./listbox.js";

/** @typedef {import("./queue.js").Item} Item */

const WORDS = { waiting: "waiting", working: "working…", failed: "failed" };
const THUMBNAIL = 80; // pixels a side, two for one of the screen

/**
 * @param {Item} item
 * @returns {HTMLElement}
 */
export function makeRow(item) {
  const picture = make("img");
  Object.assign(picture, { src: item.thumbnail, alt: "", decoding: "async" });
  picture.addEventListener("error", () => (picture.className = "blank"));
  const text = make("span.name", make("span.file", item.file.name), make("span.words"));
  return makeOption(item.id, item.id, [picture, text]);
}

/**
 * @param {Item} item
 * @param {number | null} count  of its objects that the filters let through, when it is done
 */
export function updateRow(item, count) {
  const row = byId(item.id);
  if (!row) return; // removed
  row.dataset.state = item.state;
  row.querySelector(".words").textContent = count === null ? item.words || WORDS[item.state] : objectsWord(count);
}

/**
 * A picture for an image of which the browser could make none.
 *
 * @param {Item} item
 * @param {HTMLCanvasElement} canvas  holds it
 */
export function mendThumbnail(item, canvas) {
  const picture = byId(item.id)?.querySelector("img.blank, img.mended");
  if (!picture) return;
  const small = make("canvas");
  Object.assign(small, { width: THUMBNAIL, height: THUMBNAIL });
  const side = Math.min(canvas.width, canvas.height);
  const [left, top] = [(canvas.width - side) / 2, (canvas.height - side) / 2];
  small.getContext("2d").drawImage(canvas, left, top, side, side, 0, 0, THUMBNAIL, THUMBNAIL);
  Object.assign(picture, { src: small.toDataURL(), className: "mended" });
}

/**
 * @param {Record<import("./queue.js").State, number>} states
 * @param {number} progress  images, with shares of those that are worked at
 */
export function renderProgress({ waiting, working, done, failed }, progress) {
  byId("save-all-box").hidden = done < 2;
  const total = waiting + working + done + failed;
  const bar = byId("progress");
  Object.assign(bar, { max: Math.max(1, total), value: progress });
  byId("progress-text").textContent = progressWords(done, failed, total);
  byId("progress-text").parentElement.classList.toggle("busy", waiting + working > 0);
}

/**
 * @param {number} done
 * @param {number} failed
 * @param {number} total
 */
export function progressWords(done, failed, total) {
  return `${done} of ${total} done${failed ? `, ${failed} failed` : ""}`;
}
