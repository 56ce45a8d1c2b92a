// Audio worklet that turns the microphone's samples into 16-bit PCM at 24 kHz.

import { Resampler } from "./resampler.js";

const RATE = 24000;
const PIECES_PER_SECOND = 25;

/** Sends {pcm: ArrayBuffer of int16, level: the peak from 0 to 1} for each 40 ms. */
class Microphone extends AudioWorkletProcessor {
  #resampler = sampleRate === RATE ? null : new Resampler(sampleRate, RATE);
  #piece = new Float32Array(Math.round(sampleRate / PIECES_PER_SECOND));
  #filled = 0;

  /** @param {Float32Array[][]} inputs */
  process([[samples]]) {
    for (let at = 0; samples && at < samples.length; ) {
      const count = Math.min(samples.length - at, this.#piece.length - this.#filled);
      this.#piece.set(samples.subarray(at, at + count), this.#filled);
      this.#filled += count;
      at += count;
      if (this.#filled === this.#piece.length) this.#send();
    }
    return true;
  }

  #send() {
    this.#filled = 0;
    const samples = this.#resampler ? this.#resampler.process(this.#piece) : this.#piece;
    let level = 0;
    const pcm = Int16Array.from(samples, (sample) => {
      const limited = Math.max(-1, Math.min(1, sample));
      level = Math.max(level, Math.abs(limited));
      return Math.round(32767 * limited);
    });
    this.port.postMessage({ pcm: pcm.buffer, level }, [pcm.buffer]);
  }
}

registerProcessor("microphone", Microphone);
