// Plays streamed samples in an AudioContext, through an audio worklet.

import { SAMPLE_RATE } from "./client.js";
import { Resampler } from "./resampler.js";

const MODULE = new URL("./pcm_worklet.js", import.meta.url).href;
/** @type {WeakMap<BaseAudioContext, Promise<void>>} */
const loaded = new WeakMap(); // the promise of each context's module

/** The reason why there is no audio worklet here; "" if there is one. */
export const unavailableReason = () =>
  globalThis.AudioWorkletNode && globalThis.isSecureContext
    ? ""
    : "Browsers allow audio worklets over https or on localhost only.";

export class PcmPlayer {
  #rate;
  #node;
  #resampler;
  /** Called when the first sample sounds; with the seconds played, ten times a second; on a gap; after the last sample. */
  onStart = () => {};
  onProgress = (/** @type {number} */ seconds) => {};
  onUnderrun = () => {};
  onEnd = () => {};

  /**
   * lead: seconds that are buffered before playback starts; doubled after each gap. destination: an AudioNode.
   * @param {AudioContext} context
   * @param {{ lead?: number, destination?: AudioNode }} options
   */
  static async open(context, { lead = 0.12, destination = context.destination } = {}) {
    if (!loaded.has(context)) loaded.set(context, context.audioWorklet.addModule(MODULE));
    await loaded.get(context);
    return new PcmPlayer(context, lead, destination);
  }

  /**
   * @param {AudioContext} context
   * @param {number} lead
   * @param {AudioNode} destination
   */
  constructor(context, lead, destination) {
    this.#rate = context.sampleRate;
    this.#resampler = this.#rate === SAMPLE_RATE ? null : new Resampler(SAMPLE_RATE, this.#rate);
    this.#node = new AudioWorkletNode(context, "pcm-player", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { lead: Math.round(lead * this.#rate) },
    });
    this.#node.port.onmessage = ({ data }) => this.#on(data);
    this.#node.connect(destination);
  }

  /** @param {Float32Array} samples  mono at SAMPLE_RATE; they cannot be used afterwards */
  push(samples) {
    this.#feed(this.#resampler ? this.#resampler.process(samples) : samples);
  }

  /** No more samples will come. */
  end() {
    if (this.#resampler) this.#feed(this.#resampler.flush());
    this.#node.port.postMessage({ end: true });
  }

  /**
   * Silence now. Resolves with the seconds that were played.
   * @returns {Promise<number>}
   */
  stop() {
    this.#node.disconnect();
    return new Promise((resolve) => {
      this.#node.port.onmessage = ({ data }) => data.stopped !== undefined && resolve(data.stopped / this.#rate);
      this.#node.port.postMessage({ stop: true });
    });
  }

  /** @param {Float32Array} samples */
  #feed(samples) {
    if (samples.length) this.#node.port.postMessage({ samples }, [samples.buffer]);
  }

  /** @param {{ event?: "started" | "underrun" | "ended", played?: number }} message */
  #on({ event, played }) {
    if (played !== undefined) this.onProgress(played / this.#rate);
    if (event === "started") this.onStart();
    if (event === "underrun") this.onUnderrun();
    if (event === "ended") {
      this.#node.disconnect();
      this.onEnd();
    }
  }
}
