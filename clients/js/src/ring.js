// FIFO ring buffer of samples; it grows, because a WebSocket has no backpressure.

export class Ring {
  #samples;
  #start = 0;
  length = 0;

  constructor(capacity = 1 << 17) {
    this.#samples = new Float32Array(capacity);
  }

  /** @param {Float32Array} block */
  push(block) {
    if (this.length + block.length > this.#samples.length) this.#grow(this.length + block.length);
    const at = (this.#start + this.length) % this.#samples.length;
    const fits = Math.min(block.length, this.#samples.length - at);
    this.#samples.set(block.subarray(0, fits), at);
    this.#samples.set(block.subarray(fits), 0);
    this.length += block.length;
  }

  /**
   * Fills `out` with available samples. Returns their number.
   * @param {Float32Array} out
   */
  pull(out) {
    const count = Math.min(out.length, this.length);
    const straight = Math.min(count, this.#samples.length - this.#start);
    out.set(this.#samples.subarray(this.#start, this.#start + straight));
    out.set(this.#samples.subarray(0, count - straight), straight);
    this.#start = (this.#start + count) % this.#samples.length;
    this.length -= count;
    return count;
  }

  /** @param {number} least */
  #grow(least) {
    const held = new Float32Array(this.length);
    const length = this.pull(held);
    this.#samples = new Float32Array(Math.max(least, 2 * this.#samples.length));
    this.#samples.set(held);
    this.#start = 0;
    this.length = length;
  }
}
