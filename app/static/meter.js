// Playback statistics of one request: time to first audio, real-time factor, seconds played, underruns.

import { byId } from "./dom.js";

const seconds = (value) =>
  value < 60 ? `${value.toFixed(1)} s` : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;

export class Meter {
  #requestedAt = performance.now();
  #firstAudio = null; // milliseconds after the request
  #received = 0; // seconds of audio
  #receivedIn = 0; // seconds until the latest of it arrived
  #complete = false;
  #played = 0; // seconds
  underruns = 0;
  onPlaybackStart = () => {};

  constructor(seed) {
    byId("seed").textContent = seed;
    byId("seed-keep").disabled = false;
    byId("engine").textContent = "–";
    this.#show();
  }

  /** `total` seconds of audio have been received so far. */
  received(total) {
    if (total > this.#received) {
      this.#received = total;
      if (!this.#complete) this.#receivedIn = (performance.now() - this.#requestedAt) / 1000;
      this.#show();
    }
  }

  /** The response was complete at this time of performance.now(), although `received` may lag behind. */
  completeAt(time) {
    this.#complete = true;
    this.#receivedIn = (time - this.#requestedAt) / 1000;
    this.#show();
  }

  /** `total` seconds have been played so far. */
  played(total) {
    if (!this.started) {
      this.#firstAudio = performance.now() - this.#requestedAt;
      this.onPlaybackStart();
    }
    this.#played = Math.max(this.#played, total);
    this.#show();
  }

  underrun() {
    this.underruns += 1;
    this.#show();
  }

  engine(name) {
    if (name) byId("engine").textContent = name;
  }

  /** Real-time factor: generation time per second of audio; null before the first audio. */
  get factor() {
    return this.#received ? this.#receivedIn / this.#received : null;
  }

  get started() {
    return this.#firstAudio !== null;
  }

  get playedSeconds() {
    return this.#played;
  }

  #show() {
    byId("first-audio").textContent = this.started ? `${Math.round(this.#firstAudio)} ms` : "–";
    byId("factor").textContent = this.factor === null ? "–" : this.factor.toFixed(2);
    byId("length").textContent = this.#received ? `${seconds(this.#played)} of ${seconds(this.#received)}` : "–";
    byId("underruns").textContent = this.started ? String(this.underruns) : "–";
  }
}
