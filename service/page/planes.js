/** Which plane of a stack is looked at: a slider for each axis along which there are several. */

import { byId, make } from "./elements.js";

/** @typedef {Record<string, {index: number, of: number}>} Axes  by the API's name of an axis; counted from 0 */

const NAMES = { page: "Page", z: "z", t: "t", channel: "Channel" };

/**
 * @param {Axes} axes  none: there is nothing to choose
 * @param {Record<string, number>} chosen  along the axes of which the user has chosen
 */
export function renderPlanes(axes, chosen) {
  const box = byId("planes");
  box.hidden = Object.keys(axes).length === 0;
  const shape = JSON.stringify(Object.entries(axes).map(([axis, { of }]) => [axis, of]));
  // Sliders that are there stay, for one of them may be under the user's hand.
  if (box.dataset.shape !== shape) box.replaceChildren(...Object.entries(axes).map(makeSlider));
  box.dataset.shape = shape;
  for (const [axis, { index }] of Object.entries(axes)) {
    const slider = byId(`plane-${axis}`);
    slider.value = String(chosen[axis] ?? index);
    tell(slider);
  }
}

/** @param {(axis: string, index: number) => void} onChoose  when a slider is let go */
export function wirePlanes(onChoose) {
  byId("planes").addEventListener("input", ({ target }) => tell(target));
  byId("planes").addEventListener("change", ({ target }) => onChoose(target.dataset.axis, Number(target.value)));
}

/**
 * What was seen of a stack, for names and tables; "" of a picture with one plane.
 *
 * @param {Axes | undefined} axes
 */
export function planeWords(axes = {}) {
  return Object.entries(axes)
    .map(([axis, { index }]) => `${axis}${index}`)
    .join("-");
}

function makeSlider([axis, { of }]) {
  const slider = make("input");
  Object.assign(slider, { type: "range", id: `plane-${axis}`, min: "0", max: String(of - 1), step: "1" });
  slider.dataset.axis = axis;
  const label = make("label", NAMES[axis]);
  const output = make("output");
  label.htmlFor = slider.id;
  output.htmlFor = slider.id;
  return make("div.field", label, output, slider);
}

function tell(slider) {
  slider.parentElement.querySelector("output").textContent = `${slider.value} (0 to ${slider.max})`;
}
