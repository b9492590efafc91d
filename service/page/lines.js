/** An answer that comes in lines of JSON: progress, a head, a detection a line, and the end. */

import { Problem } from "./problem.js";

export const LINES = "application/x-ndjson";

/** A detection's members, and what the whole answer calls their lists. */
const LISTS = {
  box: "boxes",
  label: "labels",
  label_id: "label_ids",
  score: "scores",
  mask: "masks",
  keypoints: "keypoints",
};

/**
 * The answer as it would be in one JSON.
 *
 * @param {Response} response  to /predict, of one image
 * @param {(done: number, of: number) => void} onProgress  told of tiles
 * @returns {Promise<object>}
 * @throws {Problem} what the server tells after it has begun, or when the answer breaks off
 */
export async function readLines(response, onProgress) {
  let answer = null;
  for await (const text of linesOf(response.body)) {
    const line = JSON.parse(text);
    if (line.error) throw new Problem(line.error.title, line.error.detail, line.error.status);
    if (line.end) return answer;
    if (line.progress) onProgress(line.progress.tiles, line.progress.of);
    else if (answer === null) answer = begin(line);
    else for (const [name, value] of Object.entries(line)) (answer[LISTS[name]] ??= []).push(value);
  }
  throw new Problem("No whole answer", "The answer broke off before its end. Try again.");
}

/** Masks and keypoints come where the model has them. */
function begin({ detections, ...head }) {
  return { ...head, boxes: [], labels: [], label_ids: [], scores: [] };
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
}
