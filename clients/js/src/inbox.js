// What callbacks receive, for one `for await` loop.

export class Inbox {
  #values = [];
  #over = false;
  #error = null;
  #wake = () => {};

  push(value) {
    this.#values.push(value);
    this.#wake();
  }

  /** The loop ends once it has taken all values. */
  end() {
    this.#over = true;
    this.#wake();
  }

  /** The loop throws this error at once, unless it has ended. */
  fail(error) {
    if (this.#over) return;
    this.#values = [];
    this.#error = error;
    this.end();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#values.length) yield this.#values.shift();
      if (this.#error) throw this.#error;
      if (this.#over) return;
      await new Promise((resolve) => (this.#wake = resolve));
    }
  }
}
