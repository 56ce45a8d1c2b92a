// Runs one speech request at a time: request, playback, stop, download.

import { byId } from "./dom.js";
import { download } from "./download.js";
import { Meter } from "./meter.js";
import * as notice from "./notice.js";
import { Waveform } from "./waveform.js";
import { playbackModes } from "./playback.js";

const SLOW = 0.7; // real-time factor above which the next request buffers more before it starts

export class Speech {
  #sound;
  #serviceStatus;
  #onError;
  #waveform = new Waveform(byId("wave"));
  #stopping = new AbortController();
  #turn = 0;
  #download = null;
  #slow = false;

  /** onError: called with the result of describeError. */
  constructor(sound, serviceStatus, onError) {
    this.#sound = sound;
    this.#serviceStatus = serviceStatus;
    this.#onError = onError;
    byId("stop").onclick = () => this.stop();
    byId("save").onclick = () => this.#save();
  }

  /** Generates and plays speech; stops the previous one. Resolves when it ends, in any way. */
  async speak(parameters, mode, format) {
    this.stop();
    const turn = ++this.#turn;
    const { signal } = (this.#stopping = new AbortController());
    const seeded = { seed: Math.floor(Math.random() * 1e6), ...parameters };
    notice.clear();
    this.#keep(null);
    byId("stop").disabled = false;
    setStatus("Requesting …");
    const meter = new Meter(seeded.seed);
    meter.engine(this.#serviceStatus.engine);
    meter.onPlaybackStart = () => {
      if (turn === this.#turn) setStatus("Speaking.");
      this.#serviceStatus.refresh();
    };
    try {
      await this.#sound.wake();
      this.#waveform.start(this.#sound.analyser);
      await playbackModes[mode].play({
        parameters: seeded,
        format,
        sound: this.#sound,
        meter,
        signal,
        slow: this.#slow,
        keep: (download) => this.#keep(download),
      });
      setStatus(summaryOf(meter));
    } catch (error) {
      if (turn === this.#turn) this.#ended(error, signal, meter, () => this.speak(parameters, mode, format));
    } finally {
      this.#slow = meter.factor > SLOW;
      this.#serviceStatus.refresh();
      if (turn === this.#turn) {
        this.#waveform.stop();
        byId("stop").disabled = true;
      }
    }
  }

  /** Stops playback and generation immediately. */
  stop() {
    this.#stopping.abort();
  }

  #ended(error, signal, meter, again) {
    const after = meter.started ? ` after ${meter.playedSeconds.toFixed(1)} s` : "";
    if (signal.aborted) {
      setStatus(`Stopped${after}.`);
      return;
    }
    this.#stopping.abort(); // whatever is still running
    setStatus(`Failed${after}.`);
    this.#onError(notice.show(error, again));
  }

  #keep(download) {
    this.#download = download;
    byId("save").disabled = download === null;
  }

  async #save() {
    const { name, blob } = this.#download;
    byId("save").disabled = true;
    try {
      download(name, await blob());
    } catch (error) {
      this.#onError(notice.show(error, () => this.#save()));
    } finally {
      byId("save").disabled = this.#download === null;
    }
  }
}

function setStatus(text) {
  byId("saying").textContent = text;
}

function summaryOf(meter) {
  const finished = `Finished: ${meter.playedSeconds.toFixed(1)} s.`;
  if (meter.factor > 1) return `${finished} Generation is slower than real time, so playback pauses; the download does not.`;
  return meter.underruns ? `${finished} Underruns: ${meter.underruns}.` : finished;
}
