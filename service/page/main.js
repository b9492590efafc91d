/** The page: what the user does, and what follows from it. */

import { Api } from "./api.js";
import { askForKey, wireDialog } from "./dialog.js";
import { byId, objectsWord } from "./elements.js";
import { wireIntake } from "./intake.js";
import { Listbox } from "./listbox.js";
import {
  filterObjects,
  incomplete,
  intensityWords,
  objectOptions,
  renderClasses,
  renderModel,
  renderSummary,
  renderThresholds,
  renderTiming,
  seenWords,
} from "./panels.js";
import { renderPlanes, wirePlanes } from "./planes.js";
import { Queue } from "./queue.js";
import { makeRow, mendThumbnail, progressWords, renderProgress, updateRow } from "./rows.js";
import { buildScene } from "./scene.js";
import { Stage } from "./stage.js";
import {
  LAYERS,
  announce,
  classCount,
  contrast,
  look,
  notify,
  now,
  passing,
  thresholdOf,
  thresholds,
  unitOfImage,
  wishes,
} from "./state.js";
import { renderSnippet, wireTakeaway } from "./takeaway.js";

const FLOOR = 0.05; // least score asked for, so that the slider needs no new answer
const PARALLEL = 2;
const ZOOM = 1.5;
const SMALLEST_PIXEL = 1e-6; // µm, that the server takes
const LARGEST_PIXEL = 1e6;

const api = new Api(askForKey);
const queue = new Queue(predict, { parallel: PARALLEL, onChange: onItem });
const stage = new Stage(byId("viewport"), byId("picture"), {
  onPoint: (found) => point(found),
  onPick: (found) => pin(found === now.pinned ? null : found),
});
const images = new Listbox(byId("queue"), { onSelect: (id) => show(queue.items.find((item) => item.id === id)) });
const objects = new Listbox(byId("objects"), {
  onSelect: (index) => pin(now.scene?.objects[index] ?? null), // while pictures change there is no scene
  onPoint: (index) => point((index !== null && now.scene?.objects[index]) || null),
});

wireDialog();
wireIntake(addFiles, notify);
wireTakeaway(queue, api);
wirePlanes(choosePlane);
wireControls();
let ready = loadModels();

/** @returns {Promise<boolean>} false: there is none, and the user has been told why */
async function loadModels() {
  try {
    const list = await api.models({ onBusy: notify });
    notify("");
    offer(list);
  } catch (problem) {
    const remedy = problem.status === 401 ? "" : " Reload the page to try again.";
    notify(`${problem.message}${remedy}`);
  }
  byId("change-key").hidden = api.key === null && wishes.model !== null;
  return wishes.model !== null;
}

/** Fill the chooser with the models of GET /models, each at its newest version first. */
function offer({ default: usual, models, refused }) {
  if (models.length === 0) {
    const reasons = Object.entries(refused).map(([name, [newest]]) => ` ${name}: ${newest?.reason}.`);
    throw new Error(`No model is served.${reasons.join("")}`);
  }
  const option = (name, version, choice) => new Option(`${name}, version ${version}`, JSON.stringify(choice));
  const chooser = byId("model");
  chooser.replaceChildren(
    ...models.flatMap(({ name, version: newest, versions }) => [
      option(name, newest, { model: name }),
      ...versions
        .filter(({ state, version }) => state === "served" && version !== newest)
        .map(({ version }) => option(name, version, { model: name, version })),
    ]),
  );
  chooser.disabled = false;
  chooser.value = JSON.stringify({ model: usual });
  wishes.models = models;
  choose(JSON.parse(chooser.value));
}

/** Take a model, with its own defaults. */
function choose(choice) {
  const model = wishes.models.find(({ name }) => name === choice.model);
  Object.assign(wishes, { choice, model, threshold: null, hidden: new Set() });
  byId("score").min = String(floor());
  byId("layer-boxes").checked = byId("layer-labels").checked = classCount() > 1;
  byId("classes").hidden = classCount() === 1;
  byId("samples").hidden = !Object.values(model.labels).includes("nucleus");
  renderModel(model, null);
  refresh();
}

function floor() {
  const { score_thresholds: own, score_threshold: common } = wishes.model.defaults;
  return Math.min(common, ...Object.values(own), FLOOR);
}

async function predict(item, onBusy) {
  if (!(await ready)) throw new Error(byId("notice-text").textContent);
  const query = { score_threshold: floor(), ...wishes.choice, ...item.plane };
  const onProgress = (done, of) => onBusy(`${done} of ${of} tiles`, done / of);
  const result = await api.predict(item.file, query, { signal: item.stop.signal, onBusy, onProgress });
  item.axes = result.answer.image.plane ?? {};
  return result;
}

function addFiles(files) {
  const added = queue.add(files);
  if (added.length === 0) return;
  byId("main").classList.remove("empty");
  byId("samples").open = false;
  byId("queue-box").hidden = false;
  byId("queue").append(...added.map(makeRow));
  for (const item of added) renderItem(item);
  void show(added[0]);
}

function onItem(item) {
  renderItem(item);
  if (item === now.item) void show(item);
  if (item.state !== "done" && item.state !== "failed") return;
  const { done, failed } = queue.states;
  const outcome = item.state === "done" ? `${objectsWord(passing(item.result.answer).length)}.` : item.problem.message;
  const progress = queue.items.length > 1 ? ` ${progressWords(done, failed, queue.items.length)}.` : "";
  announce(`${item.file.name}: ${outcome}${progress}`);
}

function renderItem(item) {
  updateRow(item, item.state === "done" ? passing(item.result.answer).length : null);
  renderProgress(queue.states, queue.progress);
}

async function show(item) {
  const seen = item === now.item && byId("main").dataset.state;
  Object.assign(now, { item, scene: null, shown: [], pinned: null, pointed: null });
  images.select(item.id);
  byId("picture-name").textContent = item.file.name;
  byId("retry").hidden = item.state !== "failed";
  document.title = `${item.file.name} – maskserve`;
  renderPlanes(item.axes, item.plane);
  if (item.state !== "done") {
    const words = item.problem?.message || item.words || "Working…";
    // What was seen of the same image stays, faint, until there is another answer: the page does not jump.
    if (item.state === "failed" || !["done", "again"].includes(seen)) showNothing(item.state, words);
    else {
      become("again");
      byId("picture-facts").textContent = words;
    }
    return;
  }
  const { answer, milliseconds } = item.result;
  let scene;
  try {
    scene = buildScene(answer, classCount());
  } catch (error) {
    showNothing("failed", `The answer cannot be used: ${error.message}.`);
    return;
  }
  const bitmap = await decode(item);
  if (now.item !== item || item.result?.answer !== answer) return; // the user has gone on
  Object.assign(now, { scene, pinned: null, pointed: null });
  become("done");
  message(bitmap ? "" : "This browser cannot show the picture itself, so what was found stands on an empty ground.");
  const { name, version } = answer.model;
  const seenAs = `${seenWords(answer.image)}${intensityWords(answer.image.intensity)}`;
  byId("picture-facts").textContent = `${scene.width} × ${scene.height} px${seenAs} · ${name}, version ${version}`;
  stage.show(bitmap, scene);
  if (bitmap) mendThumbnail(item, byId("base"));
  bitmap?.close();
  objects.fill(objectOptions(scene.objects, unitOfImage(answer)));
  renderTiming(answer.timing_ms, milliseconds);
  renderModel(wishes.model, answer.model);
  refresh();
}

/** The picture upright, as the server sees it; null if there is no way to show it. */
async function decode(item) {
  const { width, height, intensity, plane } = item.result.answer.image;
  const query = { ...wishes.choice, ...item.plane };
  // TIFF, for one, is read by the server only.
  const bare = async () => (item.bare ??= await api.barePicture(item.file, query, { signal: item.stop.signal }));
  const attempts = plane ? [bare] : [() => item.file, bare]; // of a stack, a browser shows the first plane
  if (intensity) attempts.reverse(); // of more than 8 bits, a browser shows the upper ones
  for (const attempt of attempts) {
    try {
      const bitmap = await createImageBitmap(await attempt(), { imageOrientation: "from-image" });
      if (bitmap.width === width && bitmap.height === height) return bitmap;
    } catch {
      // The next attempt; after the last one the user is told.
    }
  }
  return null;
}

/** Show why there is nothing to see of an image. */
function showNothing(state, words) {
  become(state);
  byId("picture-facts").textContent = "";
  byId("count").textContent = "";
  message(words);
}

/** @param {import("./queue.js").State | "again"} state  "again": what is shown will be replaced */
function become(state) {
  byId("main").dataset.state = state;
  for (const part of document.querySelectorAll("#viewport, .stage-foot, #results, .extras")) {
    part.inert = state === "again";
  }
}

function message(words) {
  byId("stage-message").hidden = words === "";
  byId("stage-message").textContent = words;
}

/** Show again what depends on sliders, boxes and classes. */
function refresh() {
  renderThresholds(thresholds(), wishes.threshold === null);
  byId("opacity-value").textContent = `${byId("opacity").value} %`;
  byId("contrast-value").textContent = `× ${contrast().toFixed(1)}`;
  for (const item of queue.items) renderItem(item);
  const { scene, item, pinned } = now;
  if (!scene) return;
  const chosen = new Set(passing(item.result.answer));
  now.shown = scene.objects.filter(({ index }) => chosen.has(index));
  if (pinned && !chosen.has(pinned.index)) pin(null);
  stage.update(now.shown, look());
  const count = objectsWord(now.shown.length);
  byId("count").textContent = count;
  byId("picture").setAttribute("aria-label", `${item.file.name} with ${count} drawn on it`);
  const sure = scene.objects.filter(({ score, label }) => score > thresholdOf(label));
  renderClasses(sure, scene, wishes.hidden);
  const { answer } = item.result;
  renderSummary(now.shown, scene, unitOfImage(answer), answer.image.pixel_size_um);
  byId("incomplete").hidden = !incomplete(answer, thresholds()[0]);
  filterObjects(now.shown);
  renderSnippet(api.key !== null);
}

let scheduled = false;

/** Once a frame at most, however fast a slider moves. */
function refreshSoon() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    refresh();
  });
}

function pin(found) {
  now.pinned = found;
  objects.select(found && String(found.index));
  if (found) stage.reveal(found);
  stage.singleOut(now.pointed ?? found);
}

function point(found) {
  now.pointed = found;
  stage.singleOut(found ?? now.pinned);
}

function hideClasses(labels, hide) {
  for (const label of labels) wishes.hidden[hide ? "add" : "delete"](label);
  refresh();
}

async function changeKey() {
  if (!(await api.renewKey(""))) return;
  if (!wishes.model) ready = loadModels();
  queue.again(queue.items.filter(({ state }) => state === "failed"));
}

function choosePlane(axis, index) {
  const { item } = now;
  item.plane = { ...item.plane, [axis]: index };
  queue.again([item]);
}

/** Micrometers are counted here: no new answer is needed. */
function sizePixels(field) {
  const size = Number(field.value);
  const usable = size >= SMALLEST_PIXEL && size <= LARGEST_PIXEL;
  wishes.pixelSize = usable ? size : null;
  field.toggleAttribute("aria-invalid", !usable && (field.value !== "" || field.validity.badInput));
  if (!now.scene) return;
  const { pinned } = now;
  objects.fill(objectOptions(now.scene.objects, unitOfImage(now.item.result.answer)));
  refresh();
  if (pinned) pin(pinned);
}

function remove(items) {
  const at = queue.items.indexOf(now.item);
  for (const item of [...items]) {
    queue.remove(item);
    byId(item.id).remove();
  }
  renderProgress(queue.states, queue.progress);
  const next = queue.items[Math.min(at, queue.items.length - 1)];
  if (next) {
    void show(next);
    return;
  }
  Object.assign(now, { item: null, scene: null, shown: [], pinned: null, pointed: null });
  document.title = "maskserve";
  byId("main").classList.add("empty");
  byId("queue-box").hidden = true;
  byId("samples").open = true;
  byId("files").focus();
}

function wireControls() {
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  on("score", "input", ({ target }) => {
    wishes.threshold = Number(target.value);
    refreshSoon();
  });
  on("score-own", "click", () => {
    wishes.threshold = null;
    byId("score").focus(); // the button goes
    refresh();
  });
  for (const id of ["opacity", "contrast", ...LAYERS.map((layer) => `layer-${layer}`)]) on(id, "input", refreshSoon);
  on("pixel-size", "input", ({ target }) => sizePixels(target));
  on("class-list", "change", ({ target }) => hideClasses([target.dataset.label], !target.checked));
  on("classes-all", "click", () => hideClasses([...wishes.hidden], false));
  on("classes-none", "click", () => hideClasses(now.scene?.objects.map(({ label }) => label) ?? [], true));
  on("model", "change", ({ target }) => {
    choose(JSON.parse(target.value));
    for (const item of queue.items) item.bare = null; // another model may make another picture of deep values
    queue.again(queue.items);
  });
  on("change-key", "click", changeKey);
  on("zoom-in", "click", () => stage.zoomBy(ZOOM));
  on("zoom-out", "click", () => stage.zoomBy(1 / ZOOM));
  on("zoom-fit", "click", () => stage.fit());
  on("retry", "click", () => queue.again([now.item]));
  on("remove", "click", () => remove([now.item]));
  on("clear", "click", () => remove(queue.items));
  on("queue", "keydown", ({ key }) => key === "Delete" && remove([now.item]));
  on("notice-close", "click", () => notify(""));
  document.addEventListener("keydown", ({ key }) => key === "Escape" && pin(null));
}
