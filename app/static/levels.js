// Level meters of a conversation: the microphone's and the answer's.

import { byId } from "./dom.js";

const STEP = 40; // milliseconds

export class Levels {
  #timer = null;

  /** Shows the answer's level until `stop`. */
  start(analyser) {
    const samples = new Float32Array(analyser.fftSize);
    this.stop();
    this.#timer = setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      draw("level-answer", samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0));
    }, STEP);
  }

  /** Shows the microphone's level, from 0 to 1. */
  microphone(level) {
    draw("level-microphone", level);
  }

  stop() {
    clearInterval(this.#timer);
    draw("level-answer", 0);
    draw("level-microphone", 0);
  }
}

function draw(id, level) {
  byId(id).firstElementChild.style.width = `${100 * Math.sqrt(level)}%`; // loudness is not linear in amplitude
}
