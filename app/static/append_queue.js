// Bytes on their way into a SourceBuffer: in order, one append at a time, and with room made when it is full.

const KEPT = 5; // seconds behind the playhead that are never thrown away

export class AppendQueue {
  #buffer;
  #element;
  #signal;
  #last = Promise.resolve();

  constructor(buffer, element, signal) {
    this.#buffer = buffer;
    this.#element = element;
    this.#signal = signal;
  }

  /** Resolves once these bytes, and all before them, are in: whoever waits for it reads no faster than is played. */
  append(bytes) {
    this.#last = this.#last.then(() => this.#append(bytes));
    return this.#last;
  }

  async #append(bytes) {
    for (;;) {
      this.#signal.throwIfAborted();
      try {
        this.#buffer.appendBuffer(bytes);
      } catch (error) {
        if (error.name !== "QuotaExceededError") throw error;
        await this.#makeRoom();
        continue;
      }
      await this.#settled();
      return;
    }
  }

  async #makeRoom() {
    const { buffered } = this.#buffer;
    const end = this.#element.currentTime - KEPT;
    if (buffered.length && buffered.start(0) < end) {
      this.#buffer.remove(0, end);
      await this.#settled();
    } else {
      await once(this.#element, "timeupdate", this.#signal); // nothing to spare yet: play on
    }
  }

  /** The buffer takes the next change only when it has ended the last. */
  async #settled() {
    let failed = false;
    this.#buffer.addEventListener("error", () => (failed = true), { once: true, signal: this.#signal });
    if (this.#buffer.updating) await once(this.#buffer, "updateend", this.#signal);
    if (failed) throw new Error("the browser cannot decode this stream");
  }
}

/** The next event of a kind; rejects when the signal says so. */
export function once(target, kind, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    target.addEventListener(kind, resolve, { once: true, signal });
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
