/** The ways in for images: the file chooser, dropping, pasting and the samples. */

import { byId } from "./elements.js";

/**
 * @param {(files: File[]) => void} addFiles
 * @param {(words: string) => void} notify  told what went wrong
 */
export function wireIntake(addFiles, notify) {
  wireChooser(addFiles);
  wireDrop(addFiles, notify);
  wirePaste(addFiles);
  wireSamples(addFiles, notify);
}

function wireChooser(addFiles) {
  const input = byId("files");
  input.addEventListener("change", () => {
    addFiles([...input.files]);
    input.value = ""; // the same file may be chosen again
  });
}

/** Anywhere on the page. */
function wireDrop(addFiles, notify) {
  const root = document.documentElement;
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    root.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) root.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    root.classList.remove("dragging");
    if (!event.dataTransfer) return;
    event.preventDefault();
    const files = [...event.dataTransfer.files];
    if (files.length === 0) notify("What was dropped is not a file. Save the picture first, or copy and paste it.");
    else addFiles(files);
  });
}

function wirePaste(addFiles) {
  let pasted = 0;
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    // Every browser calls a copied picture image.png.
    const named = (file) => (file.name === "image.png" ? new File([file], `pasted-${++pasted}.png`, file) : file);
    addFiles(files.map(named));
  });
}

function wireSamples(addFiles, notify) {
  byId("samples").addEventListener("click", async (event) => {
    const sample = event.target.closest("[data-sample]")?.dataset.sample;
    if (!sample) return;
    try {
      const response = await fetch(new URL(`page/samples/${sample}.png`, document.baseURI));
      if (!response.ok) throw new Error(`the server answered ${response.status}`);
      addFiles([new File([await response.blob()], `${sample}.png`, { type: "image/png" })]);
    } catch (error) {
      notify(`The sample could not be loaded: ${error.message}.`);
    }
  });
}
