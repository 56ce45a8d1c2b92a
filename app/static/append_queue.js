// Queue of appends to a SourceBuffer: in order, one at a time, evicting played data when the buffer is full.

const KEPT_SECONDS = 5; // before the playhead, never evicted

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

  /** Resolves once these bytes and all earlier ones are appended, which limits reading to the speed of playback. */
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
        await this.#evict();
        continue;
      }
      await this.#updated();
      return;
    }
  }

  async #evict() {
    const { buffered } = this.#buffer;
    const end = this.#element.currentTime - KEPT_SECONDS;
    if (buffered.length && buffered.start(0) < end) {
      this.#buffer.remove(0, end);
      await this.#updated();
    } else {
      await once(this.#element, "timeupdate", this.#signal); // nothing to evict yet
    }
  }

  /** Waits for the current update, since a buffer accepts one at a time. */
  async #updated() {
    let failed = false;
    this.#buffer.addEventListener("error", () => (failed = true), { once: true, signal: this.#signal });
    if (this.#buffer.updating) await once(this.#buffer, "updateend", this.#signal);
    if (failed) throw new Error("the browser cannot decode this stream");
  }
}

/** The next event of a type; rejects when the signal aborts. */
export function once(target, kind, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    target.addEventListener(kind, resolve, { once: true, signal });
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
