// Plays the audio of one answer at a time, and tells how much of it was heard.

import { Resampler } from "./resampler.js";

const RATE = 24000;
const LEAD = 0.12; // seconds buffered before playback starts
const LONGEST_LEAD = 1;

export class AnswerPlayer {
  #sound;
  #handlers;
  #answer = null; // {id, itemId, node, resampler, played, complete}
  #lead = LEAD;

  /** onStart, onEnd: called when an answer begins to sound, and when the last of it has been played. */
  constructor(sound, { onStart, onEnd }) {
    this.#sound = sound;
    this.#handlers = { onStart, onEnd };
  }

  get playing() {
    return this.#answer !== null;
  }

  /** Adds audio, base64 of int16 at 24 kHz, of a response's item. */
  push(id, itemId, audio) {
    if (this.#answer?.id !== id) this.#begin(id, itemId);
    this.#feed(samplesOf(audio));
  }

  /** No more audio of this response will come. */
  end(id) {
    if (this.#answer?.id !== id) return;
    if (this.#answer.resampler) this.#feed(this.#answer.resampler.flush(), true);
    this.#post({ end: true });
  }

  /** Silence now. Resolves with {itemId, milliseconds: heard of it}, or null if nothing was playing. */
  async stop() {
    const answer = this.#answer;
    if (!answer) return null;
    this.#answer = null;
    const node = await answer.node;
    node.disconnect();
    const played = await new Promise((resolve) => {
      node.port.onmessage = ({ data }) => data.stopped !== undefined && resolve(data.stopped);
      node.port.postMessage({ stop: true });
    });
    const seconds = Math.max(0, played / this.#sound.rate - this.#sound.delay);
    return { itemId: answer.itemId, milliseconds: Math.floor(1000 * seconds) };
  }

  #begin(id, itemId) {
    this.stop();
    const answer = { id, itemId, resampler: this.#sound.rate === RATE ? null : new Resampler(RATE, this.#sound.rate) };
    answer.node = this.#sound.player(this.#lead).then((node) => {
      node.port.onmessage = ({ data }) => this.#onEvent(answer, node, data.event);
      return node;
    });
    this.#answer = answer;
  }

  #onEvent(answer, node, event) {
    if (event === "started") this.#handlers.onStart();
    if (event === "underrun") this.#lead = Math.min(2 * this.#lead, LONGEST_LEAD); // of the next answer too
    if (event !== "ended") return;
    node.disconnect();
    this.#answer = null;
    this.#handlers.onEnd(answer.id);
  }

  #feed(samples, resampled = false) {
    const ready = this.#answer.resampler && !resampled ? this.#answer.resampler.process(samples) : samples;
    if (ready.length) this.#post({ samples: ready }, [ready.buffer]);
  }

  #post(message, transferred = []) {
    this.#answer.node.then((node) => node.port.postMessage(message, transferred));
  }
}

function samplesOf(audio) {
  const bytes = Uint8Array.from(atob(audio), (letter) => letter.charCodeAt(0));
  return Float32Array.from(new Int16Array(bytes.buffer), (sample) => sample / 32768);
}
