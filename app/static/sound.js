// Audio output of the page: an AudioContext with an analyser, used by all playback modes.

import { PcmPlayer, SAMPLE_RATE } from "./client/index.js";

export class Sound {
  #context = null;
  #element = null;
  analyser = null;

  /** Starts the context. Browsers allow that only within a click or a key press. */
  async wake() {
    if (!this.#context) {
      this.#context = openContext();
      this.analyser = new AnalyserNode(this.#context, { fftSize: 2048, smoothingTimeConstant: 0 });
      this.analyser.connect(this.#context.destination);
    }
    if (this.#context.state !== "running") await this.#context.resume();
  }

  /** Seconds from a sample that a worklet gives out to the loudspeaker. */
  get delay() {
    return this.#context.outputLatency || this.#context.baseLatency || 0;
  }

  /** A new audio element connected to the analyser; replaces the previous one. */
  element() {
    this.#element?.disconnect();
    const element = new Audio();
    this.#element = this.#context.createMediaElementSource(element);
    this.#element.connect(this.analyser);
    return element;
  }

  /** A PcmPlayer. lead: seconds buffered before playback starts. */
  player(lead) {
    return PcmPlayer.open(this.#context, { lead, destination: this.analyser });
  }
}

function openContext() {
  try {
    return new AudioContext({ sampleRate: SAMPLE_RATE, latencyHint: "interactive" });
  } catch {
    return new AudioContext({ latencyHint: "interactive" });
  }
}
