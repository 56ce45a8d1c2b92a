// Plays samples on the audio thread as they come: starts with a little in hand, and counts when it runs dry.

import { Ring } from "./ring.js";

/**
 * Takes {samples: Float32Array} at the context's rate, {end: true} behind the last, and {stop: true}.
 * Tells {told: "started" | "underrun" | "ended"}, and {played: samples} a few times a second.
 * processorOptions.lead: samples in hand before it starts; twice as many after each time it ran dry.
 */
class PcmPlayer extends AudioWorkletProcessor {
  #ring = new Ring();
  #lead;
  #playing = false;
  #complete = false;
  #stopped = false;
  #played = 0;
  #told = 0;

  constructor({ processorOptions }) {
    super();
    this.#lead = processorOptions.lead;
    this.port.onmessage = ({ data }) => {
      if (data.samples) this.#ring.push(data.samples);
      if (data.end) this.#complete = true;
      if (data.stop) this.#stopped = true;
    };
  }

  process(_, [[out]]) {
    if (this.#stopped) return false; // one that is only disconnected would play on, unheard
    if (!this.#playing && (this.#complete || this.#ring.length >= this.#lead)) {
      this.#playing = true;
      this.port.postMessage({ told: "started" });
    }
    if (!this.#playing) return true;
    const count = this.#ring.pull(out);
    this.#count(count);
    if (count === out.length) return true;
    if (this.#complete) {
      this.port.postMessage({ told: "ended" });
      return false;
    }
    this.#playing = false;
    this.#lead *= 2;
    this.port.postMessage({ told: "underrun" });
    return true;
  }

  #count(samples) {
    this.#played += samples;
    if (this.#played - this.#told >= sampleRate / 10 || samples === 0) {
      this.#told = this.#played;
      this.port.postMessage({ played: this.#played });
    }
  }
}

registerProcessor("pcm-player", PcmPlayer);
