// What was received as samples, as a file that plays anywhere.

const HEADER = 44;

export class Recording {
  #blocks = [];
  #length = 0;

  constructor(rate) {
    this.rate = rate;
  }

  /** @param {Float32Array} samples  from -1 to 1; kept as they are */
  push(samples) {
    this.#blocks.push(samples);
    this.#length += samples.length;
  }

  get seconds() {
    return this.#length / this.rate;
  }

  /** 16 bit mono. */
  wav() {
    const file = new DataView(new ArrayBuffer(HEADER + 2 * this.#length));
    writeHeader(file, this.rate, 2 * this.#length);
    let at = HEADER;
    for (const block of this.#blocks) {
      for (const sample of block) {
        file.setInt16(at, Math.round(Math.max(-1, Math.min(1, sample)) * 32767), true);
        at += 2;
      }
    }
    return new Blob([file], { type: "audio/wav" });
  }
}

function writeHeader(file, rate, bytes) {
  const text = (at, letters) => [...letters].forEach((letter, i) => file.setUint8(at + i, letter.charCodeAt(0)));
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
