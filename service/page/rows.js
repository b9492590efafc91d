/** The list of images: a row each with its state, and how far all of them are. */

import { byId, make, objectsWord } from "./elements.js";
import { makeOption } from "./listbox.js";

/** @typedef {import("./queue.js").Item} Item */

const WORDS = { waiting: "waiting", working: "working…", failed: "failed" };

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

/** @param {Record<import("./queue.js").State, number>} states */
export function renderProgress({ waiting, working, done, failed }) {
  byId("save-all-box").hidden = done < 2;
  const total = waiting + working + done + failed;
  const bar = byId("progress");
  Object.assign(bar, { max: Math.max(1, total), value: done + failed });
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
