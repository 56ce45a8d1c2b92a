// Audio output of the page: an AudioContext with an analyser, used by all playback modes.

const RATE = 24000; // the service's sample rate; resampled if the context has another

export class Sound {
  #context = null;
  #element = null;
  #worklet = null;
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

  get rate() {
    return this.#context.sampleRate;
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

  /** A worklet node that plays the samples it receives. lead: seconds buffered before playback starts. */
  async player(lead) {
    this.#worklet ??= this.#context.audioWorklet.addModule("/static/pcm_worklet.js");
    await this.#worklet;
    const node = new AudioWorkletNode(this.#context, "pcm-player", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { lead: Math.round(lead * this.rate) },
    });
    node.connect(this.analyser);
    return node;
  }
}

function openContext() {
  try {
    return new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
  } catch {
    return new AudioContext({ latencyHint: "interactive" });
  }
}
