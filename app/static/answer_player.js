// Plays the audio of one answer at a time, and tells how much of it was heard.

import { floatOf } from "./client/index.js";

const LEAD = 0.12; // seconds buffered before playback starts
const LONGEST_LEAD = 1;

export class AnswerPlayer {
  #sound;
  #handlers;
  #answer = null; // {id, itemId, player: a promise}
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
    this.#answer.player.then((player) => player.push(samplesOf(audio)));
  }

  /** No more audio of this response will come. */
  end(id) {
    if (this.#answer?.id !== id) return;
    this.#answer.player.then((player) => player.end());
  }

  /** Silence now. Resolves with {itemId, milliseconds: heard of it}, or null if nothing was playing. */
  async stop() {
    const answer = this.#answer;
    if (!answer) return null;
    this.#answer = null;
    const played = await (await answer.player).stop();
    const seconds = Math.max(0, played - this.#sound.delay);
    return { itemId: answer.itemId, milliseconds: Math.floor(1000 * seconds) };
  }

  #begin(id, itemId) {
    this.stop();
    const player = this.#sound.player(this.#lead).then((opened) => {
      opened.onStart = this.#handlers.onStart;
      opened.onUnderrun = () => (this.#lead = Math.min(2 * this.#lead, LONGEST_LEAD)); // of the next answer too
      opened.onEnd = () => {
        this.#answer = null;
        this.#handlers.onEnd(id);
      };
      return opened;
    });
    this.#answer = { id, itemId, player };
  }
}

function samplesOf(audio) {
  const bytes = Uint8Array.from(atob(audio), (letter) => letter.charCodeAt(0));
  return floatOf(new Int16Array(bytes.buffer));
}
