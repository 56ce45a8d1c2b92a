// Streaming resampler between 24 kHz and a device's rate: a windowed sinc, continuous across blocks.

const HALF_TAPS = 16; // taps on either side, at the lower of the two rates
const PHASES = 512; // fractional positions with precomputed taps

export class Resampler {
  #step; // input samples for each output sample
  #reach; // input samples on either side of an output sample
  #rows;
  #history; // input that is still needed
  #position; // of the next output sample, in #history

  /**
   * @param {number} from  samples a second
   * @param {number} to
   */
  constructor(from, to) {
    const cutoff = Math.min(1, to / from);
    this.#step = from / to;
    this.#reach = Math.ceil(HALF_TAPS / cutoff);
    this.#rows = Array.from({ length: PHASES + 1 }, (_, phase) => row(phase / PHASES, this.#reach, cutoff));
    this.#history = new Float32Array(this.#reach);
    this.#position = this.#reach;
  }

  /**
   * Resamples a block. The last few samples are returned by the next call, or by `flush`.
   * @param {Float32Array} block
   */
  process(block) {
    const input = new Float32Array(this.#history.length + block.length);
    input.set(this.#history);
    input.set(block, this.#history.length);
    const last = input.length - this.#reach - 1;
    const count = Math.max(0, Math.floor((last - this.#position) / this.#step) + 1);
    const out = new Float32Array(count);
    for (let i = 0; i < count; i++) out[i] = this.#at(input, this.#position + i * this.#step);
    const next = this.#position + count * this.#step;
    const drop = Math.max(0, Math.floor(next) - this.#reach);
    this.#history = input.slice(drop);
    this.#position = next - drop;
    return out;
  }

  /** The remaining samples. */
  flush() {
    return this.process(new Float32Array(this.#reach));
  }

  /**
   * @param {Float32Array} input
   * @param {number} position
   */
  #at(input, position) {
    const whole = Math.floor(position);
    const taps = this.#rows[Math.round((position - whole) * PHASES)];
    let sum = 0;
    for (let tap = 0; tap < taps.length; tap++) sum += taps[tap] * input[whole - this.#reach + 1 + tap];
    return sum;
  }
}

/**
 * Weights of the 2 * reach samples around a position `offset` after one of them, normalized to a sum of 1.
 * @param {number} offset
 * @param {number} reach
 * @param {number} cutoff
 */
function row(offset, reach, cutoff) {
  const taps = Float32Array.from({ length: 2 * reach }, (_, tap) => {
    const distance = tap - reach + 1 - offset;
    const x = Math.PI * cutoff * distance;
    const sinc = x === 0 ? 1 : Math.sin(x) / x;
    const window = Math.abs(distance) >= reach ? 0 : 0.5 + 0.5 * Math.cos((Math.PI * distance) / reach);
    return sinc * window;
  });
  const sum = taps.reduce((total, tap) => total + tap, 0);
  return taps.map((tap) => tap / sum);
}
