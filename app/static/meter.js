// How one speech goes: when it began to sound, how fast it is made, how much was heard, how often it ran dry.

import { byId } from "./dom.js";

const seconds = (value) =>
  value < 60 ? `${value.toFixed(1)} s` : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;

export class Meter {
  #asked = performance.now();
  #firstHeard = null;
  #received = 0; // seconds of audio
  #receivedIn = 0; // seconds until the last of it came
  #complete = false;
  #heard = 0;
  gaps = 0;
  onSound = () => {}; // called when the first of it is heard

  constructor(seed) {
    byId("seed").textContent = seed;
    byId("seed-keep").disabled = false;
    byId("engine").textContent = "–";
    this.#show();
  }

  /** Audio came in, `total` seconds of it so far. */
  received(total) {
    if (total > this.#received) {
      this.#received = total;
      if (!this.#complete) this.#receivedIn = (performance.now() - this.#asked) / 1000;
      this.#show();
    }
  }

  /** All of it had come in at this time of performance.now(), though not all of it may have been looked at yet. */
  completeAt(time) {
    this.#complete = true;
    this.#receivedIn = (time - this.#asked) / 1000;
    this.#show();
  }

  /** `total` seconds have been heard so far. */
  heard(total) {
    if (!this.sounds) {
      this.#firstHeard = performance.now() - this.#asked;
      this.onSound();
    }
    this.#heard = Math.max(this.#heard, total);
    this.#show();
  }

  gap() {
    this.gaps += 1;
    this.#show();
  }

  engine(name) {
    if (name) byId("engine").textContent = name;
  }

  /** Seconds to make one second of audio; null before there is any. */
  get factor() {
    return this.#received ? this.#receivedIn / this.#received : null;
  }

  get sounds() {
    return this.#firstHeard !== null;
  }

  get heardSeconds() {
    return this.#heard;
  }

  #show() {
    byId("first-audio").textContent = this.sounds ? `${Math.round(this.#firstHeard)} ms` : "–";
    byId("factor").textContent = this.factor === null ? "–" : this.factor.toFixed(2);
    byId("length").textContent = this.#received ? `${seconds(this.#heard)} of ${seconds(this.#received)}` : "–";
    byId("gaps").textContent = this.sounds ? String(this.gaps) : "–";
  }
}
