/** Images that are predicted one after the other, a few at a time. */

/**
 * @typedef {"waiting" | "working" | "done" | "failed"} State
 * @typedef {{
 *   id: string, file: File, thumbnail: string, state: State, words: string, problem: Error | null,
 *   result: {answer: object, milliseconds: number} | null, bare: Blob | null, stop: AbortController,
 *   axes: import("./planes.js").Axes, plane: Record<string, number>,
 *   share: number,
 * }} Item  `words` say more about its state, and `share`, from 0 to 1, how much of it is seen; `thumbnail` is an object
 *   URL; `bare` the picture as the server decodes it; `axes` those of a stack, once they are known, and `plane` what the user has chosen along them
 */
export class Queue {
  /**
   * @param {(item: Item, onBusy: (words: string, share?: number) => void) => Promise<Item["result"]>} work  throws what
   *   went wrong
   * @param {{parallel: number, onChange: (item: Item) => void}} options
   */
  constructor(work, { parallel, onChange }) {
    this.work = work;
    this.parallel = parallel;
    this.onChange = onChange;
    /** @type {Item[]} */
    this.items = [];
    this.count = 0;
  }

  /**
   * @param {Iterable<File>} files
   * @returns {Item[]}
   */
  add(files) {
    const added = Array.from(files, (file) => ({
      id: `image-${++this.count}`,
      file,
      thumbnail: URL.createObjectURL(file),
      axes: {},
      plane: {},
      ...fresh(),
    }));
    this.items.push(...added);
    this.#start();
    return added;
  }

  /** @param {Item[]} items  to be predicted again */
  again(items) {
    for (const item of items) {
      item.stop.abort();
      Object.assign(item, fresh());
      this.onChange(item);
    }
    this.#start();
  }

  /** @param {Item} item */
  remove(item) {
    item.stop.abort();
    URL.revokeObjectURL(item.thumbnail);
    this.items = this.items.filter((other) => other !== item);
    this.#start();
  }

  /** @returns {Record<State, number>} */
  get states() {
    const states = { waiting: 0, working: 0, done: 0, failed: 0 };
    for (const { state } of this.items) states[state]++;
    return states;
  }

  /** How many images are done with, each that is worked at by its share. */
  get progress() {
    const { done, failed } = this.states;
    return this.items.reduce((sum, { state, share }) => sum + (state === "working" ? share : 0), done + failed);
  }

  #start() {
    for (const item of this.items) {
      if (this.states.working >= this.parallel) return;
      if (item.state === "waiting") void this.#run(item);
    }
  }

  async #run(item) {
    const { stop } = item;
    const become = (change) => {
      if (stop.signal.aborted) return; // removed, or begun anew
      Object.assign(item, change);
      this.onChange(item);
    };
    become({ state: "working" });
    try {
      const result = await this.work(item, (words, share = 0) => become({ words, share }));
      become({ state: "done", words: "", result });
    } catch (problem) {
      become({ state: "failed", words: problem.title ?? "An error", problem });
    }
    this.#start();
  }
}

function fresh() {
  return { state: "waiting", words: "", problem: null, share: 0, result: null, bare: null, stop: new AbortController() };
}
