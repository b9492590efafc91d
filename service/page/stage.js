/** The picture: its canvases, zoom, and the object under the pointer. */

import { drawFocus, drawLines, paintTint } from "./paint.js";
import { objectAt } from "./scene.js";
import { PIXELS } from "./units.js";

/**
 * @typedef {import("./scene.js").Found} Found
 * @typedef {import("./scene.js").Scene} Scene
 * @typedef {import("./paint.js").Layers} Layers
 * @typedef {{
 *   layers: Layers, opacity: number, contrast: number, named: boolean, unit: import("./units.js").Unit,
 * }} Look  opacity of the tint from 0 to 1; contrast is the factor on what differs from the picture's mean
 */

const MOST_HEIGHT = 0.72; // of the window
const LEAST_HEIGHT = 280; // pixels of the screen, when zoomed in
const MOST_ENLARGED = 10; // screen pixels to one of a tiny picture
const MOST_ZOOM = 16;
const MOST_DRAWN = 16e6; // pixels of a canvas of lines; beyond, its lines are coarser
const MARGIN = 0.5; // of the viewport on each side, drawn beyond what is seen, so that scrolling finds lines there
const LINGER = 150; // milliseconds that an object stays singled out after the pointer has left it

export class Stage {
  /**
   * @param {HTMLElement} viewport  what scrolls
   * @param {HTMLElement} picture  holds the canvases base, tint, lines and focus
   * @param {{onPoint: (found: Found | null) => void, onPick: (found: Found | null) => void}} handlers
   */
  constructor(viewport, picture, { onPoint, onPick }) {
    this.viewport = viewport;
    this.picture = picture;
    const [base, tint, lines, focus] = picture.querySelectorAll("canvas");
    Object.assign(this, { base, tint, lines, focus });
    this.onPoint = onPoint;
    /** @type {Scene | null} */
    this.scene = null;
    /** @type {Found[]} */
    this.shown = [];
    /** @type {Look} */
    const layers = { masks: true, outlines: true, boxes: false, labels: false };
    this.look = { layers, opacity: 0.35, contrast: 1, named: false, unit: PIXELS };
    this.mean = 0;
    this.single = null;
    this.zoom = 1;
    this.density = 1; // pixels of the canvases of lines to one of the screen
    this.stale = new Set();
    this.part = { left: 0, top: 0, right: 0, bottom: 0 }; // of the picture, that has lines, in pixels of the screen
    picture.addEventListener("pointermove", (event) => this.#point(this.#objectUnder(event)));
    picture.addEventListener("pointerleave", () => this.#point(null));
    picture.addEventListener("click", (event) => onPick(this.#objectUnder(event)));
    viewport.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    viewport.addEventListener("scroll", () => this.#scroll());
    viewport.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#resize()).observe(viewport.parentElement);
  }

  /**
   * @param {ImageBitmap | null} bitmap  null: there is nothing to show below the detections
   * @param {Scene} scene
   */
  show(bitmap, scene) {
    const { base } = this;
    Object.assign(base, { width: bitmap ? scene.width : 1, height: bitmap ? scene.height : 1 });
    if (bitmap) base.getContext("2d").drawImage(bitmap, 0, 0);
    this.mean = bitmap ? meanOf(base) : 0;
    this.scene = scene;
    this.shown = [];
    this.single = null;
    this.zoom = 1;
    this.#resize();
  }

  /**
   * @param {Found[]} shown
   * @param {Look} look
   */
  update(shown, look) {
    const tinted = shown.length !== this.shown.length || shown.some((found, i) => found !== this.shown[i]);
    const { opacity, contrast, ...drawn } = look;
    const { opacity: _, contrast: __, ...before } = this.look;
    if (tinted || JSON.stringify(drawn) !== JSON.stringify(before)) this.#redraw("lines", "focus");
    if (tinted) this.#redraw("tint");
    this.shown = shown;
    this.look = look;
    this.tint.style.opacity = String(look.layers.masks ? opacity : 0);
    this.#contrast(contrast);
  }

  /** @param {Found | null} found  to be singled out */
  singleOut(found) {
    if (found === this.single) return;
    this.single = found;
    this.#redraw("focus");
  }

  /**
   * @param {number} factor
   * @param {{clientX: number, clientY: number}} [at]  what stays in place; default: the middle
   */
  zoomBy(factor, at) {
    const frame = this.viewport.getBoundingClientRect();
    const x = at ? at.clientX - frame.left : frame.width / 2;
    const y = at ? at.clientY - frame.top : frame.height / 2;
    const shareX = (this.viewport.scrollLeft + x) / this.picture.offsetWidth;
    const shareY = (this.viewport.scrollTop + y) / this.picture.offsetHeight;
    this.zoom = Math.max(1, Math.min(this.zoom * factor, MOST_ZOOM));
    this.#resize();
    this.viewport.scrollLeft = shareX * this.picture.offsetWidth - x;
    this.viewport.scrollTop = shareY * this.picture.offsetHeight - y;
  }

  fit() {
    this.zoom = 1;
    this.#resize();
  }

  /** Bring an object into view when zoomed in. */
  reveal({ box: [x1, y1, x2, y2] }) {
    if (this.zoom === 1) return;
    const { viewport } = this;
    viewport.scrollLeft = ((x1 + x2) / 2) * this.scale - viewport.clientWidth / 2;
    viewport.scrollTop = ((y1 + y2) / 2) * this.scale - viewport.clientHeight / 2;
  }

  #resize() {
    if (!this.scene || !this.viewport.offsetWidth) return;
    const { width, height } = this.scene;
    const most = window.innerHeight * MOST_HEIGHT;
    const fitting = Math.min(this.viewport.offsetWidth / width, most / height, MOST_ENLARGED);
    this.scale = fitting * this.zoom;
    const [wide, high] = [Math.floor(width * this.scale), Math.floor(height * this.scale)];
    const fitted = Math.floor(height * fitting);
    const room = this.zoom > 1 ? Math.min(high, Math.max(fitted, LEAST_HEIGHT)) : fitted;
    Object.assign(this.picture.style, { width: `${wide}px`, height: `${high}px` });
    this.viewport.style.height = `${room}px`;
    this.viewport.classList.toggle("zoomed", this.zoom > 1);
    this.#redraw("lines", "focus");
  }

  /** Put the canvases of lines over what is seen, and something around it. */
  #place() {
    const { viewport, picture } = this;
    const [x, y, wide, high] = [viewport.scrollLeft, viewport.scrollTop, viewport.clientWidth, viewport.clientHeight];
    const left = Math.max(0, x - MARGIN * wide);
    const top = Math.max(0, y - MARGIN * high);
    const right = Math.min(picture.offsetWidth, x + (1 + MARGIN) * wide);
    const bottom = Math.min(picture.offsetHeight, y + (1 + MARGIN) * high);
    this.part = { left, top, right, bottom };
    const [partWide, partHigh] = [right - left, bottom - top];
    this.density = Math.min(window.devicePixelRatio, Math.sqrt(MOST_DRAWN / (partWide * partHigh)));
    const size = { width: Math.round(partWide * this.density), height: Math.round(partHigh * this.density) };
    const style = { left: `${left}px`, top: `${top}px`, width: `${partWide}px`, height: `${partHigh}px` };
    for (const canvas of [this.lines, this.focus]) {
      if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
      Object.assign(canvas.style, style);
    }
  }

  #scroll() {
    const { viewport, picture, part } = this;
    const right = Math.min(picture.offsetWidth, viewport.scrollLeft + viewport.clientWidth);
    const bottom = Math.min(picture.offsetHeight, viewport.scrollTop + viewport.clientHeight);
    const drawn =
      part.left <= viewport.scrollLeft && part.top <= viewport.scrollTop && part.right >= right && part.bottom >= bottom;
    if (!drawn) this.#redraw("lines", "focus");
  }

  /** Around the mean, so that a dark ground stays dark and a bright one bright. */
  #contrast(factor) {
    for (const channel of this.picture.querySelectorAll("#contrast-filter feComponentTransfer > *")) {
      channel.setAttribute("slope", String(factor));
      channel.setAttribute("intercept", String(this.mean * (1 - factor)));
    }
    this.base.style.filter = factor === 1 ? "" : "url(#contrast-filter)";
  }

  #redraw(...layers) {
    if (this.stale.size === 0) requestAnimationFrame(() => this.#draw());
    for (const layer of layers) this.stale.add(layer);
  }

  #draw() {
    const { scene, shown, look, lines, focus, stale } = this;
    if (scene) {
      if (stale.has("lines")) this.#place();
      const { density, part } = this;
      const scale = (this.picture.offsetWidth / scene.width) * density;
      const view = { x: part.left * density, y: part.top * density, wide: lines.width, high: lines.height };
      const pen = { scale, pen: density, view, named: look.named, unit: look.unit };
      if (stale.has("tint")) paintTint(this.tint, scene, shown);
      if (stale.has("lines")) drawLines(cleared(lines, view), shown, look.layers, pen);
      if (stale.has("focus")) {
        const context = cleared(focus, view);
        if (this.single && shown.includes(this.single)) drawFocus(context, this.single, pen);
      }
    }
    stale.clear();
  }

  #objectUnder({ clientX, clientY }) {
    if (!this.scene) return null;
    const frame = this.picture.getBoundingClientRect();
    const x = ((clientX - frame.left) / frame.width) * this.scene.width;
    const y = ((clientY - frame.top) / frame.height) * this.scene.height;
    return objectAt(this.shown, x, y);
  }

  #point(found) {
    clearTimeout(this.leaving);
    // Between two neighbors the picture would flash.
    if (found) this.onPoint(found);
    else this.leaving = setTimeout(() => this.onPoint(null), LINGER);
  }

  #wheel(event) {
    if (!event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY / 200), event);
  }

  #key(event) {
    const zooms = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 1 / MOST_ZOOM };
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in zooms)) return;
    event.preventDefault();
    this.zoomBy(zooms[event.key]);
  }
}

/** The mean of a canvas over pixels and channels, from 0 to 1. */
function meanOf(canvas) {
  const small = new OffscreenCanvas(32, 32).getContext("2d");
  small.drawImage(canvas, 0, 0, 32, 32);
  const { data } = small.getImageData(0, 0, 32, 32);
  const sum = data.reduce((total, value, index) => (index % 4 === 3 ? total : total + value), 0);
  return sum / (32 * 32 * 3 * 255);
}

/** For drawing in the picture's coordinates. */
function cleared(canvas, { x, y, wide, high }) {
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, -x, -y);
  context.clearRect(x, y, wide, high);
  return context;
}
