// Audio worklet that plays streamed samples, with an initial buffer and underrun detection.

import { Ring } from "./ring.js";

/**
 * Receives {samples: Float32Array} at the context's rate, {end: true} after the last, and {stop: true}.
 * Sends {event: "started" | "underrun" | "ended"}, and {played: samples} about ten times a second; after
 * a stop {stopped: samples played}.
 * processorOptions.lead: samples buffered before playback starts; doubled after each underrun.
 */
class PcmPlayer extends AudioWorkletProcessor {
  #ring = new Ring();
  #lead;
  #playing = false;
  #complete = false;
  #stopped = false;
  #played = 0;
  #reported = 0;

  /** @param {{ processorOptions: { lead: number } }} options */
  constructor({ processorOptions }) {
    super();
    this.#lead = processorOptions.lead;
    this.port.onmessage = ({ data }) => {
      if (data.samples) this.#ring.push(data.samples);
      if (data.end) this.#complete = true;
      if (data.stop) {
        this.#stopped = true;
        this.port.postMessage({ stopped: this.#played });
      }
    };
  }

  /**
   * @param {Float32Array[][]} _
   * @param {Float32Array[][]} outputs
   */
  process(_, [[out]]) {
    if (this.#stopped) return false; // a disconnected processor would keep running
    if (!this.#playing && (this.#complete || this.#ring.length >= this.#lead)) {
      this.#playing = true;
      this.port.postMessage({ event: "started" });
    }
    if (!this.#playing) return true;
    const count = this.#ring.pull(out);
    this.#count(count);
    if (count === out.length) return true;
    if (this.#complete) {
      this.port.postMessage({ played: this.#played });
      this.port.postMessage({ event: "ended" });
      return false;
    }
    this.#playing = false;
    this.#lead *= 2;
    this.port.postMessage({ event: "underrun" });
    return true;
  }

  /** @param {number} samples */
  #count(samples) {
    this.#played += samples;
    if (this.#played - this.#reported >= sampleRate / 10 || samples === 0) {
      this.#reported = this.#played;
      this.port.postMessage({ played: this.#played });
    }
  }
}

registerProcessor("pcm-player", PcmPlayer);
