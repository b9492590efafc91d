/** A list of which one entry is selected: by click, or by arrow keys, Home, End, Page Up and Page Down. */

const PAGE = 10;

export class Listbox {
  /**
   * @param {HTMLElement} element  with role="listbox"; it has the focus, its options have none
   * @param {{onSelect: (key: string) => void, onPoint?: (key: string | null) => void}} handlers
   */
  constructor(element, { onSelect, onPoint = () => {} }) {
    this.element = element;
    this.onSelect = onSelect;
    const keyOf = (event) => event.target.closest("[role=option]")?.dataset.key ?? null;
    element.addEventListener("click", (event) => {
      if (keyOf(event) !== null) onSelect(keyOf(event));
    });
    element.addEventListener("keydown", (event) => this.#key(event));
    element.addEventListener("pointerover", (event) => onPoint(keyOf(event)));
    element.addEventListener("pointerleave", () => onPoint(null));
  }

  /** @param {HTMLElement[]} options  made by `makeOption` */
  fill(options) {
    this.element.replaceChildren(...options);
    this.select(null);
  }

  /** @param {string | null} key  null: none */
  select(key) {
    this.element.removeAttribute("aria-activedescendant");
    for (const option of this.element.children) {
      const chosen = option.dataset.key === key;
      option.setAttribute("aria-selected", String(chosen));
      if (!chosen) continue;
      this.element.setAttribute("aria-activedescendant", option.id);
      scrollInto(this.element, option);
    }
  }

  #key(event) {
    const options = [...this.element.children].filter((option) => !option.hidden);
    const at = options.findIndex((option) => option.getAttribute("aria-selected") === "true");
    const last = options.length - 1;
    const moves = {
      ArrowDown: at + 1,
      ArrowUp: at < 0 ? last : at - 1,
      Home: 0,
      End: last,
      PageDown: at + PAGE,
      PageUp: at - PAGE,
    };
    if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey || last < 0) return;
    event.preventDefault();
    this.onSelect(options[Math.max(0, Math.min(moves[event.key], last))].dataset.key);
  }
}

/**
 * @param {string} id  of the element
 * @param {string} key  what the handlers are told
 * @param {(Node | string)[]} content
 */
export function makeOption(id, key, content) {
  const option = document.createElement("div");
  option.id = id;
  option.dataset.key = key;
  option.setAttribute("role", "option");
  option.setAttribute("aria-selected", "false");
  option.append(...content);
  return option;
}

/** Scrolls the list alone: scrollIntoView would move the page too. */
function scrollInto(list, option) {
  const top = option.offsetTop - list.offsetTop;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + option.offsetHeight > list.scrollTop + list.clientHeight) {
    list.scrollTop = top + option.offsetHeight - list.clientHeight;
  }
}
