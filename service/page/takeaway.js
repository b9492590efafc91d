/** What the user takes along: downloads, and code that gives the same answer. */

import { byId } from "./elements.js";
import { save, toCoco, toCsv } from "./exports.js";
import { planeWords } from "./planes.js";
import { buildScene } from "./scene.js";
import { toCurl, toPython } from "./snippets.js";
import { announce, classCount, notify, now, passing, unitOfImage, wishes } from "./state.js";

/** The server's files for analysis tools: the format that is asked for, and how the file's name ends. */
const ANALYSIS = { geojson: "geojson", imagej: "zip", labels: "tif", csv: "measurements.csv" };

/**
 * @param {import("./queue.js").Queue} queue
 * @param {import("./api.js").Api} api
 */
export function wireTakeaway(queue, api) {
  const every = () => byId("save-all").checked && queue.states.done > 1;
  const sheets = () => sheetsOf(every() ? queue.items.filter(({ state }) => state === "done") : [now.item]);
  const offer = (id, isOfAll, suffix, make) =>
    byId(id).addEventListener("click", () => download(byId(id), isOfAll(), suffix, make));
  const never = () => false;
  offer("save-png", never, "png", () => api.picture(now.item.file, queryOfShown()));
  offer("save-csv", every, "csv", () => new Blob([toCsv(sheets())], { type: "text/csv" }));
  for (const form of ["polygons", "rle"]) {
    const make = () =>
      new Blob([JSON.stringify(toCoco(sheets(), wishes.model.labels, form))], { type: "application/json" });
    offer(`save-${form}`, every, "json", make);
  }
  for (const [format, suffix] of Object.entries(ANALYSIS)) {
    offer(`analysis-${format}`, never, suffix, () => api.analysisFile(now.item.file, queryOfShown(), format));
  }
  for (const radio of document.querySelectorAll("[name=language]")) {
    radio.addEventListener("change", () => renderSnippet(api.key !== null));
  }
  byId("copy").addEventListener("click", copy);
}

/** @param {boolean} hasKey */
export function renderSnippet(hasKey) {
  const { file } = now.item;
  const asked = { name: file.name, type: file.type, query: queryOfShown(), hasKey };
  const language = document.querySelector("[name=language]:checked").value;
  byId("snippet").textContent = language === "curl" ? toCurl(asked) : toPython(asked);
}

/** What to ask the server for to get the objects that are shown. */
function queryOfShown() {
  const { model, image } = now.item.result.answer;
  const query = { model: model.name, version: model.version, ...now.item.plane };
  if (wishes.pixelSize !== null && !image.pixel_size_um) query.pixel_size_um = wishes.pixelSize;
  if (wishes.threshold !== null) query.score_threshold = wishes.threshold;
  const shown = Object.values(wishes.model.labels).filter((label) => !wishes.hidden.has(label));
  if (!shown.length) query.score_threshold = 1; // no label would mean all of them
  else if (wishes.hidden.size) query.labels = shown;
  return query;
}

/** The images to be written, with those of their objects that the filters let through. */
function sheetsOf(items) {
  return items.map(({ file, result: { answer } }) => {
    const scene = answer === now.item.result?.answer ? now.scene : buildScene(answer, classCount());
    const objects = passing(answer).map((index) => scene.objects[index]);
    return { file: file.name, answer, scene, unit: unitOfImage(answer), objects };
  });
}

/** One at a time from each button, which says that it is at work: of a large picture a file takes a while. */
async function download(button, every, suffix, make) {
  if (button.hasAttribute("aria-busy")) return;
  const name = `${every ? "images" : nameOfShown()}-objects.${suffix}`;
  button.setAttribute("aria-busy", "true");
  announce(`${name} is being made.`);
  try {
    save(await make(), name);
    announce(`Saved ${name}.`);
  } catch (error) {
    notify(`${name} could not be made: ${error.message}`);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

/** The file's without its ending, and the plane that the user has chosen of it. */
function nameOfShown() {
  const { file, plane, result } = now.item;
  const stem = file.name.replace(/\.[^.]*$/, "");
  return Object.keys(plane).length ? `${stem}-${planeWords(result.answer.image.plane)}` : stem;
}

async function copy() {
  try {
    await navigator.clipboard.writeText(byId("snippet").textContent);
    announce("Copied.");
    byId("copy").textContent = "Copied";
    setTimeout(() => (byId("copy").textContent = "Copy"), 1500);
  } catch {
    // Browsers give the clipboard to https and localhost only.
    getSelection().selectAllChildren(byId("snippet"));
    notify("This browser does not let the page copy. The code is selected: press Ctrl+C or ⌘C.");
  }
}
