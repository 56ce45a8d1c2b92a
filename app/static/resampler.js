// From the service's 24 kHz to whatever rate the loudspeaker runs at: a windowed sinc, block by block without a seam.

const HALF = 16; // taps on either side, at the lower of the two rates
const PHASES = 512; // positions between two samples that have a row of their own

export class Resampler {
  #step; // input samples for each output sample
  #reach; // input samples on either side of an output sample
  #rows;
  #held; // input that is still needed
  #position; // of the next output sample, in `held`

  constructor(from, to) {
    const cutoff = Math.min(1, to / from);
    this.#step = from / to;
    this.#reach = Math.ceil(HALF / cutoff);
    this.#rows = Array.from({ length: PHASES + 1 }, (_, phase) => row(phase / PHASES, this.#reach, cutoff));
    this.#held = new Float32Array(this.#reach);
    this.#position = this.#reach;
  }

  /** What the samples so far give, float32. A few are held until the next ones are there, or `flush`. */
  process(block) {
    const input = new Float32Array(this.#held.length + block.length);
    input.set(this.#held);
    input.set(block, this.#held.length);
    const last = input.length - this.#reach - 1;
    const count = Math.max(0, Math.floor((last - this.#position) / this.#step) + 1);
    const out = new Float32Array(count);
    for (let i = 0; i < count; i++) out[i] = this.#at(input, this.#position + i * this.#step);
    const next = this.#position + count * this.#step;
    const drop = Math.max(0, Math.floor(next) - this.#reach);
    this.#held = input.slice(drop);
    this.#position = next - drop;
    return out;
  }

  /** What is left at the end. */
  flush() {
    return this.process(new Float32Array(this.#reach));
  }

  #at(input, position) {
    const whole = Math.floor(position);
    const taps = this.#rows[Math.round((position - whole) * PHASES)];
    let sum = 0;
    for (let tap = 0; tap < taps.length; tap++) sum += taps[tap] * input[whole - this.#reach + 1 + tap];
    return sum;
  }
}

/** The weights of the 2 * reach samples around a position that lies `offset` behind one of them; their sum is 1. */
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
