/** The question for an API key. */

import { byId } from "./elements.js";

/**
 * @param {string} words  what was wrong with the last one, or ""
 * @returns {Promise<string | null>} null: the user gives none
 */
export function askForKey(words) {
  const dialog = byId("key-dialog");
  const input = byId("key");
  input.value = "";
  input.toggleAttribute("aria-invalid", words !== "");
  byId("key-error").textContent = words;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue || null), { once: true });
  });
}

/** Make the dialog's buttons work. Call once. */
export function wireDialog() {
  const dialog = byId("key-dialog");
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close(byId("key").value.trim());
  });
  byId("key-cancel").addEventListener("click", () => dialog.close(""));
}
