/** What went wrong, in words for the user; `title` in short. */
export class Problem extends Error {
  /**
   * @param {string} title
   * @param {string} detail
   * @param {number} [status]  0: there was no answer
   */
  constructor(title, detail, status = 0) {
    super(detail);
    this.title = title;
    this.status = status;
  }
}
