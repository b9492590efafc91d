/** What stands beside the picture: classes, measurements, objects, timing and the model. */

import { byId, fillFacts, make, makeSvg, readable, swatch } from "./elements.js";
import { makeOption } from "./listbox.js";
import { histogram, summarize } from "./measure.js";
import { cssColor } from "./paint.js";
import { PALETTE, areaOf, classGroup } from "./scene.js";
import { areaWords, lengthWords, pixelSizeWords } from "./units.js";

/**
 * @typedef {import("./scene.js").Found} Found
 * @typedef {import("./scene.js").Scene} Scene
 */

const MOST_LISTED = 1000;
const BINS = 12;
const LONG = 10_000; // milliseconds, from which on times are told in seconds
const [PLOT_WIDTH, PLOT_HEAD, PLOT_HEIGHT, PLOT_FOOT] = [300, 16, 80, 18];
const STAGES = { decode: "Decoding", queue: "Waiting", inference: "Network", postprocess: "Masks" };

/**
 * What objects must score more than.
 *
 * @param {number[]} thresholds  those of the model's labels, in rising order
 * @param {boolean} own  they are the model's, not the user's
 */
export function renderThresholds(thresholds, own) {
  const [least, most] = [thresholds[0], thresholds.at(-1)].map((threshold) => threshold.toFixed(2));
  byId("score-value").textContent = least === most ? least : `${least} to ${most}, by class`;
  if (own) byId("score").value = String(thresholds[0]);
  byId("score-own").hidden = own;
}

/**
 * The classes of a picture, each with a box to leave it out.
 *
 * @param {Found[]} sure  what scores enough, whatever its class
 * @param {Scene} scene
 * @param {Set<string>} hidden
 */
export function renderClasses(sure, scene, hidden) {
  const known = new Map(scene.objects.map(({ label, labelId }) => [label, labelId]));
  for (const label of hidden) if (!known.has(label)) known.set(label, 0);
  const focused = document.activeElement?.dataset?.label;
  const rows = [...known].sort((a, b) => a[1] - b[1]).map(([label, labelId]) => {
    const box = make("input");
    Object.assign(box, { type: "checkbox", checked: !hidden.has(label) });
    box.dataset.label = label;
    const count = sure.filter((found) => found.label === label).length;
    const color = swatch(labelId ? cssColor(PALETTE[classGroup(labelId)]) : "transparent");
    return make("label.class", box, color, make("span", label), make("span.number", String(count)));
  });
  byId("class-list").replaceChildren(...rows);
  if (focused) byId("class-list").querySelector(`[data-label="${CSS.escape(focused)}"]`)?.focus();
}

/**
 * @param {Found[]} shown
 * @param {Scene} scene
 * @param {import("./units.js").Unit} unit
 * @param {{x: number, y: number, source: string} | undefined} stated  the pixels' size in µm by the file
 */
export function renderSummary(shown, scene, unit, stated) {
  const summary = summarize(shown, scene.width, scene.height);
  const facts = [["Objects", shown.length.toLocaleString("en")]];
  if (summary) {
    const { covered, mean, deviation, median, least, most, diameter } = summary;
    facts.push(
      ["Area covered", `${readable(covered * 100, 1)} %`],
      ["Mean area", areaWords(mean, unit, 1)],
      ["Standard deviation", areaWords(deviation, unit, 1)],
      ["Median area", areaWords(median, unit, 1)],
      ["Smallest to largest", `${areaWords(least, unit).split(" ")[0]} to ${areaWords(most, unit)}`],
      ["Mean diameter", lengthWords(diameter, unit)],
    );
  }
  if (stated) facts.push(["Pixel size", pixelSizeWords(stated)]);
  byId("pixel-size-box").hidden = stated !== undefined;
  fillFacts(byId("summary"), facts);
  byId("histogram").hidden = !summary;
  if (summary) renderHistogram(shown.map((found) => areaOf(found) * unit.area), unit);
}

/**
 * The options of the list of objects; those that are not shown are hidden by `filterObjects`.
 *
 * @param {Found[]} objects
 * @param {import("./units.js").Unit} unit
 */
export function objectOptions(objects, unit) {
  return objects.slice(0, MOST_LISTED).map((found) => {
    const area = areaWords(areaOf(found), unit);
    const score = found.score.toFixed(2);
    const content = [
      make("span.number.muted", String(found.index + 1)),
      swatch(cssColor(found.color)),
      make("span.name", found.label),
      make("span.number", score),
      make("span.number", area),
    ];
    const option = makeOption(`object-${found.index}`, String(found.index), content);
    const spoken = area.replace("px", "pixels").replace("µm²", "square micrometers");
    option.setAttribute("aria-label", `${found.index + 1}: ${found.label}, score ${score}, ${spoken}`);
    return option;
  });
}

/** @param {Found[]} shown */
export function filterObjects(shown) {
  const seen = new Set(shown.map((found) => String(found.index)));
  for (const option of byId("objects").children) option.hidden = !seen.has(option.dataset.key);
  byId("objects").hidden = shown.length === 0;
  byId("objects-title").hidden = shown.length === 0;
  const unlisted = shown.filter((found) => found.index >= MOST_LISTED).length;
  const notes = [];
  if (shown.some((found, place) => found.index !== place)) {
    notes.push("An object keeps its number, also in the downloads: what the filters hide is missing in between.");
  }
  if (unlisted > 0) {
    notes.push(`The list ends here; ${readable(unlisted, 0)} more are in the picture and in the downloads.`);
  }
  byId("objects-note").hidden = notes.length === 0;
  byId("objects-note").textContent = notes.join(" ");
}

/**
 * @param {Record<string, number>} timing  the answer's timing_ms
 * @param {number} total  milliseconds from the request to the answer
 */
export function renderTiming(timing, total) {
  const stages = Object.entries(STAGES).map(([stage, words]) => [words, timing[stage] ?? 0]);
  const rest = total - stages.reduce((sum, [, time]) => sum + time, 0);
  stages.push(["Transfer and the rest", Math.max(0, rest)]);
  const parts = stages.map(([, time]) => {
    const part = make("span");
    part.style.flexGrow = String(time);
    return part;
  });
  byId("timing-bar").replaceChildren(...parts);
  const facts = [...stages, ["Request to answer", total]].map(([words, time]) => [words, timeWords(time)]);
  fillFacts(byId("timing-list"), facts);
}

/**
 * @param {object} model  of GET /models
 * @param {{name: string, version: number, precision: string} | null} answered  by the answer that is shown
 */
export function renderModel(model, answered) {
  const { provenance, evaluation } = model;
  const facts = [
    ["Name", answered?.name ?? model.name],
    ["Version", String(answered?.version ?? model.version)],
    ["Runs on", `${model.engine}, ${answered?.precision ?? model.precision}, ${model.devices.join(", ")}`],
  ];
  if (answered === null || answered.version === model.version) {
    facts.push(["Trained on", provenance.dataset], ["License", provenance.license]);
    const measured = { ...evaluation[0]?.metrics, ...model.precisions[model.precision] };
    const average = measured["mask/AP"] ?? measured["box/AP"];
    if (average !== undefined) facts.push(["AP, measured", average.toFixed(3)]);
  }
  fillFacts(byId("about-list"), facts);
}

/**
 * Whether objects may be missing in what is shown because a limit cut the answer off. Of a whole picture the least
 * score goes first, so nothing is missing above it; of tiles each may have been cut off.
 *
 * @param {object} answer
 * @param {number} threshold  the least that objects must score more than
 */
export function incomplete({ truncated, scores, image }, threshold) {
  return truncated && (image.tiles !== undefined || threshold < (scores.at(-1) ?? 1));
}

/**
 * What of the file was seen, and in how many tiles; "" of a picture that is all there is and was seen whole.
 *
 * @param {{tiles?: number, plane?: import("./planes.js").Axes}} image  of an answer
 */
export function seenWords({ tiles, plane }) {
  const planes = Object.entries(plane ?? {}).map(([axis, { index }]) => ` · ${axis} ${index}`);
  return `${planes.join("")}${tiles ? ` · seen in ${tiles} tiles` : ""}`;
}

/**
 * How the server made 8 bits of a picture's values; "" where it had no more.
 *
 * @param {{mode: string, low: number, high: number, not_finite?: number} | undefined} intensity  of an answer's image
 */
export function intensityWords(intensity) {
  if (!intensity) return "";
  const { mode, low, high, not_finite: broken } = intensity;
  const [black, white] = [low, high].map((value) => value.toLocaleString("en", { maximumSignificantDigits: 5 }));
  return ` · values ${black} to ${white} as black to white (${mode})${broken ? `, ${broken} not finite` : ""}`;
}

/** Milliseconds, or seconds of what takes many: a picture in tiles adds up the times of all of them. */
export function timeWords(milliseconds) {
  return milliseconds < LONG ? `${readable(milliseconds, 1)} ms` : `${readable(milliseconds / 1000, 1)} s`;
}

function renderHistogram(areas, { area: finest, areaName }) {
  const { start, width, counts } = histogram(areas, BINS, finest);
  const digits = Math.max(0, -Math.floor(Math.log10(width)));
  const edge = (bin) => readable(start + bin * width, digits);
  const range = (bin) => `${edge(bin)} to ${edge(bin + 1)} ${areaName}`;
  byId("histogram-title").textContent = `Areas in ${areaName === "px" ? "pixels" : areaName}`;
  const most = Math.max(...counts);
  const step = PLOT_WIDTH / counts.length;
  const bars = counts.map((count, bin) => {
    const high = (count / most) * PLOT_HEIGHT;
    const place = { x: bin * step + 1, y: PLOT_HEIGHT - high, width: Math.max(step - 2, 1), height: high, rx: 2 };
    return makeSvg("rect", { ...place, class: "bar" }, makeSvg("title", {}, `${range(bin)}: ${count}`));
  });
  const bins = counts.length;
  const marks = [["start", 0], ["middle", bins / 2], ["end", bins]];
  const texts = marks.map(([anchor, bin]) =>
    makeSvg("text", { x: bin * step, y: PLOT_HEIGHT + PLOT_FOOT - 4, "text-anchor": anchor }, edge(bin)),
  );
  const fullest = counts.indexOf(most);
  const words = `Histogram of ${areas.length} areas; the fullest bin, ${range(fullest)}, has ${most}.`;
  texts.push(makeSvg("text", { x: PLOT_WIDTH, y: -4, "text-anchor": "end" }, `${readable(most, 0)} at most in a bin`));
  const line = makeSvg("line", { x1: 0, x2: PLOT_WIDTH, y1: PLOT_HEIGHT, y2: PLOT_HEIGHT, class: "axis" });
  const viewBox = `0 ${-PLOT_HEAD} ${PLOT_WIDTH} ${PLOT_HEAD + PLOT_HEIGHT + PLOT_FOOT}`;
  const plot = makeSvg("svg", { viewBox, role: "img", "aria-label": words }, ...bars, line, ...texts);
  byId("histogram-picture").replaceChildren(plot);

  const rows = counts.map((count, bin) => make("tr", make("td", range(bin)), make("td", String(count))));
  const heads = ["Area", "Objects"].map((text) => {
    const head = make("th", text);
    head.scope = "col";
    return head;
  });
  const table = make("table", make("thead", make("tr", ...heads)), make("tbody", ...rows));
  byId("histogram-table").replaceChildren(table);
}
