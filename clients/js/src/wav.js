// Collects samples and writes them as a wav file.

const HEADER = 44;
const FULL_SCALE = 32767; // of 16-bit samples, as the service scales them

export class Recording {
  /** @type {Float32Array[]} */
  #blocks = [];
  #length = 0;

  /** @param {number} rate  samples a second */
  constructor(rate) {
    this.rate = rate;
  }

  /** @param {Float32Array} samples  from -1 to 1; not copied */
  push(samples) {
    this.#blocks.push(samples);
    this.#length += samples.length;
  }

  get seconds() {
    return this.#length / this.rate;
  }

  wav() {
    const samples = new Int16Array(this.#length);
    let at = 0;
    for (const block of this.#blocks) {
      for (const sample of block) samples[at++] = Math.round(Math.max(-1, Math.min(1, sample)) * FULL_SCALE);
    }
    return wavOf(samples.buffer, this.rate);
  }
}

/**
 * 16-bit samples, as the service sends them, from -1 to 1.
 * @param {Int16Array} samples
 */
export const floatOf = (samples) => Float32Array.from(samples, (sample) => sample / FULL_SCALE);

/**
 * A 16-bit mono wav file.
 * @param {ArrayBuffer} samples  little-endian, as on every platform with a browser
 * @param {number} rate
 */
export function wavOf(samples, rate) {
  const header = new DataView(new ArrayBuffer(HEADER));
  writeHeader(header, rate, samples.byteLength);
  return new Blob([header, samples], { type: "audio/wav" });
}

/**
 * @param {DataView} file
 * @param {number} rate
 * @param {number} bytes  of the samples
 */
function writeHeader(file, rate, bytes) {
  const text = (/** @type {number} */ at, /** @type {string} */ letters) => [...letters].forEach((letter, i) => file.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  file.setUint32(4, HEADER - 8 + bytes, true);
  text(8, "WAVEfmt ");
  file.setUint32(16, 16, true);
  file.setUint16(20, 1, true); // PCM
  file.setUint16(22, 1, true); // mono
  file.setUint32(24, rate, true);
  file.setUint32(28, 2 * rate, true); // bytes a second
  file.setUint16(32, 2, true); // bytes a sample
  file.setUint16(34, 16, true); // bits a sample
  text(36, "data");
  file.setUint32(40, bytes, true);
}
