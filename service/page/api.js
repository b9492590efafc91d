/** The server's API: what is asked, with which key, and what went wrong in words. */

import { LINES, readLines } from "./lines.js";
import { Problem } from "./problem.js";

const BUSY = new Set([429, 503]);
const MOST_TRIES = 10;
const LONGEST_WAIT = 60; // seconds
const KEY_STORE = "maskserve-key";

/**
 * @typedef {{
 *   score_threshold?: number, model?: string, version?: number, masks?: string, pixel_size_um?: number, tile?: "off",
 *   page?: number, z?: number, t?: number, channel?: number,
 * }} Query
 * @typedef {{signal?: AbortSignal, onBusy?: (words: string) => void, patient?: boolean}} Manner
 *   `onBusy` is told why it takes longer; the patient wait for a server that starts as long as it takes
 */
export class Api {
  /**
   * @param {(words: string) => Promise<string | null>} askForKey  null: the user gives none
   */
  constructor(askForKey) {
    this.askForKey = askForKey;
    this.key = sessionStorage.getItem(KEY_STORE);
    this.asking = null;
  }

  /** @returns {Promise<{default: string, models: object[], refused: object}>} GET /models */
  async models(manner = {}) {
    const response = await this.#send("models", () => ({}), { patient: true, ...manner });
    return response.json();
  }

  /**
   * @param {Blob} file
   * @param {Query} query
   * @param {Manner & {onProgress: (done: number, of: number) => void}} manner  `onProgress` is told of a picture's tiles
   * @returns {Promise<{answer: object, milliseconds: number}>} the time is that of the request that was answered
   */
  async predict(file, query, manner) {
    await checkReadable(file);
    let start = 0;
    const response = await this.#send(
      url("predict", query),
      () => {
        start = performance.now();
        return { method: "POST", body: formOf(file), headers: { Accept: LINES } };
      },
      manner,
    );
    const answer = await readLines(response, manner.onProgress);
    return { answer, milliseconds: performance.now() - start };
  }

  /**
   * The picture as the server decodes it, for what this browser cannot show. Nothing scores above 1, so it is bare, and
   * the network sees it once, small, instead of all its tiles again.
   *
   * @param {Blob} file
   * @param {Query} query
   * @param {Manner} [manner]
   * @returns {Promise<Blob>}
   */
  async barePicture(file, query, manner = {}) {
    return this.picture(file, { ...query, score_threshold: 1, masks: "none", tile: "off" }, manner);
  }

  /**
   * The picture with the detections as the server draws them.
   *
   * @param {Blob} file
   * @param {Query} query
   * @param {Manner} [manner]
   * @returns {Promise<Blob>}
   */
  async picture(file, query, manner = {}) {
    const address = url("predict", query);
    const init = () => ({ method: "POST", body: formOf(file), headers: { Accept: "image/png" } });
    const response = await this.#send(address, init, manner);
    return response.blob();
  }

  /**
   * What was found as a file for analysis tools.
   *
   * @param {Blob} file
   * @param {Query} query
   * @param {"geojson" | "imagej" | "labels" | "csv"} format
   * @param {Manner} [manner]
   * @returns {Promise<Blob>}
   */
  async analysisFile(file, query, format, manner = {}) {
    const init = () => ({ method: "POST", body: formOf(file) });
    const response = await this.#send(url("predict", { ...query, format }), init, manner);
    return response.blob();
  }

  /** Ask the user for a key, once however many requests wait for it. */
  async renewKey(words) {
    this.asking ??= this.askForKey(words).finally(() => (this.asking = null));
    const key = await this.asking;
    if (key !== null) {
      this.key = key;
      sessionStorage.setItem(KEY_STORE, key);
    }
    return key !== null;
  }

  async #send(address, makeInit, { signal, onBusy = () => {}, patient = false }) {
    for (let tries = 1; ; tries++) {
      const key = this.key;
      const init = makeInit();
      const headers = { ...init.headers, ...(key && { "X-API-Key": key }) };
      let response;
      try {
        response = await fetch(new URL(address, document.baseURI), { ...init, headers, signal });
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new Problem("No answer", "The server cannot be reached. Does it run, and is this computer online?");
      }
      if (response.ok) return response;
      const problem = await problemOf(response);
      if (response.status === 401) {
        // Another request may have got a new key meanwhile.
        if (this.key !== key || (await this.renewKey(key ? problem.message : ""))) continue;
        throw problem;
      }
      const wait = Number(response.headers.get("Retry-After"));
      if (!BUSY.has(response.status) || !(wait > 0) || (tries >= MOST_TRIES && !patient)) throw problem;
      const seconds = Math.min(wait, LONGEST_WAIT);
      onBusy(`${problem.title}; trying again in ${seconds} s`);
      await sleep(seconds * 1000, signal);
    }
  }
}

/**
 * An address of the API relative to the page, which may itself be served below a prefix.
 *
 * @param {string} path
 * @param {Record<string, string | number | string[] | undefined>} query  undefined is left out
 */
export function url(path, query) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== undefined) parameters.append(name, String(one));
  }
  return `${path}?${parameters}`;
}

function formOf(file) {
  const form = new FormData();
  form.append("file", file);
  return form;
}

async function problemOf(response) {
  try {
    const { title, detail } = await response.json();
    return new Problem(title, detail, response.status);
  } catch {
    // Not this server's words: a proxy's.
    return new Problem("An error", `The server answered ${response.status} ${response.statusText}.`, response.status);
  }
}

async function checkReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Problem("Not readable", "The file cannot be read. Is it a folder, or was it moved or changed?");
  }
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
