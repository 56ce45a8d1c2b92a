// What callbacks receive, for one `for await` loop.

/** @template T */
export class Inbox {
  /** @type {T[]} */
  #values = [];
  #over = false;
  /** @type {unknown} */
  #error = null;
  #wake = () => {};

  /** @param {T} value */
  push(value) {
    this.#values.push(value);
    this.#wake();
  }

  /** The loop ends once it has taken all values. */
  end() {
    this.#over = true;
    this.#wake();
  }

  /**
   * The loop throws this error at once, unless it has ended.
   * @param {unknown} error
   */
  fail(error) {
    if (this.#over) return;
    this.#values = [];
    this.#error = error;
    this.end();
  }

  /** @returns {AsyncGenerator<T, void, void>} */
  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#values.length) yield /** @type {T} */ (this.#values.shift());
      if (this.#error) throw this.#error;
      if (this.#over) return;
      await new Promise((resolve) => (this.#wake = () => resolve(undefined)));
    }
  }
}
