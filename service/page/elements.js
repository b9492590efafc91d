/** Making elements. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * The element with this id, which the page has.
 *
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * @param {string} tag  with classes after dots: `span.muted`
 * @param {...(Node | string)} content
 */
export function make(tag, ...content) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  element.append(...content);
  return element;
}

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @param {...(Node | string)} content
 */
export function makeSvg(name, attributes, ...content) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...content);
  return element;
}

/**
 * A small square of a color, which says nothing that the text beside it does not.
 *
 * @param {string} color
 */
export function swatch(color) {
  const element = make("span.swatch");
  element.style.background = color;
  return element;
}

/**
 * Terms and their values into a <dl>.
 *
 * @param {HTMLElement} list
 * @param {[string, string][]} facts
 */
export function fillFacts(list, facts) {
  list.replaceChildren(...facts.map(([term, value]) => make("div", make("dt", term), make("dd", value))));
}

/**
 * A number for reading, with separators.
 *
 * @param {number} value
 * @param {number} digits  after the point
 */
export function readable(value, digits) {
  return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
}

/** @param {number} count */
export function objectsWord(count) {
  return `${count.toLocaleString("en")} ${count === 1 ? "object" : "objects"}`;
}
