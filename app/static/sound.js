// The page's way to the loudspeaker. Every way of playing goes through it, so that all look alike to the analyser.

const RATE = 24000; // the service's; a browser that runs at another is resampled for

export class Sound {
  #context = null;
  #element = null;
  #worklet = null;
  analyser = null;

  /** Ready to play: browsers let a page begin only within a click or a key press. */
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

  /** An audio element that is heard through the analyser: a new one each time, so that nothing is left of the last. */
  element() {
    this.#element?.disconnect();
    const element = new Audio();
    this.#element = this.#context.createMediaElementSource(element);
    this.#element.connect(this.analyser);
    return element;
  }

  /** A node that plays the samples it is sent. lead: seconds in hand before it starts. */
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
