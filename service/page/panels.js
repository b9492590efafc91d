/** What stands beside the picture: classes, measurements, objects, timing and the model. */

import { byId, fillFacts, make, makeSvg, readable, swatch } from "./elements.js";
import { makeOption } from "./listbox.js";
import { histogram, summarize } from "./measure.js";
import { cssColor } from "./paint.js";
import { PALETTE, areaOf, classGroup } from "./scene.js";

/**
 * @typedef {import("./scene.js").Found} Found
 * @typedef {import("./scene.js").Scene} Scene
 */

const MOST_LISTED = 1000;
const BINS = 12;
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
 */
export function renderSummary(shown, scene) {
  const summary = summarize(shown, scene.width, scene.height);
  const facts = [["Objects", shown.length.toLocaleString("en")]];
  if (summary) {
    const { covered, mean, deviation, median, least, most, diameter } = summary;
    facts.push(
      ["Area covered", `${readable(covered * 100, 1)} %`],
      ["Mean area", `${readable(mean, 1)} px`],
      ["Standard deviation", `${readable(deviation, 1)} px`],
      ["Median area", `${readable(median, 1)} px`],
      ["Smallest to largest", `${readable(least, 0)} to ${readable(most, 0)} px`],
      ["Mean diameter", `${readable(diameter, 1)} px`],
    );
  }
  fillFacts(byId("summary"), facts);
  byId("histogram").hidden = !summary;
  if (summary) renderHistogram(shown.map(areaOf));
}

/**
 * The options of the list of objects; those that are not shown are hidden by `filterObjects`.
 *
 * @param {Found[]} objects
 */
export function objectOptions(objects) {
  return objects.slice(0, MOST_LISTED).map((found) => {
    const area = Math.round(areaOf(found)).toLocaleString("en");
    const score = found.score.toFixed(2);
    const content = [
      make("span.number.muted", String(found.index + 1)),
      swatch(cssColor(found.color)),
      make("span.name", found.label),
      make("span.number", score),
      make("span.number", `${area} px`),
    ];
    const option = makeOption(`object-${found.index}`, String(found.index), content);
    option.setAttribute("aria-label", `${found.index + 1}: ${found.label}, score ${score}, ${area} pixels`);
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
  if (unlisted > 0) notes.push(`The list ends here; ${unlisted} more are in the picture and in the downloads.`);
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
  const facts = [...stages, ["Request to answer", total]].map(([words, time]) => [words, `${readable(time, 1)} ms`]);
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

function renderHistogram(areas) {
  const { start, width, counts } = histogram(areas, BINS);
  const most = Math.max(...counts);
  const step = PLOT_WIDTH / counts.length;
  const bars = counts.map((count, bin) => {
    const high = (count / most) * PLOT_HEIGHT;
    const place = { x: bin * step + 1, y: PLOT_HEIGHT - high, width: Math.max(step - 2, 1), height: high, rx: 2 };
    return makeSvg("rect", { ...place, class: "bar" }, makeSvg("title", {}, `${range(start, width, bin)}: ${count}`));
  });
  const end = start + width * counts.length;
  const marks = [["start", 0, start], ["middle", PLOT_WIDTH / 2, (start + end) / 2], ["end", PLOT_WIDTH, end]];
  const texts = marks.map(([anchor, x, value]) =>
    makeSvg("text", { x, y: PLOT_HEIGHT + PLOT_FOOT - 4, "text-anchor": anchor }, readable(value, 0)),
  );
  const fullest = counts.indexOf(most);
  const words = `Histogram of ${areas.length} areas; the fullest bin, ${range(start, width, fullest)}, has ${most}.`;
  texts.push(makeSvg("text", { x: PLOT_WIDTH, y: -4, "text-anchor": "end" }, `${most} at most in a bin`));
  const line = makeSvg("line", { x1: 0, x2: PLOT_WIDTH, y1: PLOT_HEIGHT, y2: PLOT_HEIGHT, class: "axis" });
  const viewBox = `0 ${-PLOT_HEAD} ${PLOT_WIDTH} ${PLOT_HEAD + PLOT_HEIGHT + PLOT_FOOT}`;
  const plot = makeSvg("svg", { viewBox, role: "img", "aria-label": words }, ...bars, line, ...texts);
  byId("histogram-picture").replaceChildren(plot);

  const rows = counts.map((count, bin) => make("tr", make("td", range(start, width, bin)), make("td", String(count))));
  const heads = ["Area", "Objects"].map((text) => {
    const head = make("th", text);
    head.scope = "col";
    return head;
  });
  const table = make("table", make("thead", make("tr", ...heads)), make("tbody", ...rows));
  byId("histogram-table").replaceChildren(table);
}

function range(start, width, bin) {
  return `${readable(start + bin * width, 0)} to ${readable(start + (bin + 1) * width, 0)} px`;
}
