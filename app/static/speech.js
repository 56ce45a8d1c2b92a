// One thing is said at a time: asked for, heard, stopped, kept.

import { byId } from "./dom.js";
import { Meter } from "./meter.js";
import * as notice from "./notice.js";
import { Waveform } from "./waveform.js";
import { ways } from "./way.js";

const SLOW = 0.7; // real-time factor above which the next speech starts with more in hand

export class Speech {
  #sound;
  #machine;
  #onRefused;
  #waveform = new Waveform(byId("wave"));
  #stopping = new AbortController();
  #turn = 0;
  #kept = null;
  #slow = false;

  /** onRefused: is told what there is to do when something was refused. */
  constructor(sound, machine, onRefused) {
    this.#sound = sound;
    this.#machine = machine;
    this.#onRefused = onRefused;
    byId("stop").onclick = () => this.stop();
    byId("save").onclick = () => this.#save();
  }

  /** Say it, in the place of whatever is being said. Resolves when it is over, however it ended. */
  async say(parameters, way, format) {
    this.stop();
    const turn = ++this.#turn;
    const { signal } = (this.#stopping = new AbortController());
    const seeded = { seed: Math.floor(Math.random() * 1e6), ...parameters };
    notice.clear();
    this.#keep(null);
    byId("stop").disabled = false;
    tell("Asking …");
    const meter = new Meter(seeded.seed);
    meter.engine(this.#machine.engine);
    meter.onSound = () => {
      if (turn === this.#turn) tell("Speaking.");
      this.#machine.look();
    };
    try {
      await this.#sound.wake();
      this.#waveform.start(this.#sound.analyser);
      await ways[way].play({
        parameters: seeded,
        format,
        sound: this.#sound,
        meter,
        signal,
        slow: this.#slow,
        keep: (take) => this.#keep(take),
      });
      tell(endOf(meter));
    } catch (error) {
      if (turn === this.#turn) this.#ended(error, signal, meter, () => this.say(parameters, way, format));
    } finally {
      this.#slow = meter.factor > SLOW;
      this.#machine.look();
      if (turn === this.#turn) {
        this.#waveform.stop();
        byId("stop").disabled = true;
      }
    }
  }

  /** Stop: the sound at once, and the work for it too. */
  stop() {
    this.#stopping.abort();
  }

  #ended(error, signal, meter, again) {
    const after = meter.sounds ? ` after ${meter.heardSeconds.toFixed(1)} s` : "";
    if (signal.aborted) {
      tell(`Stopped${after}.`);
      return;
    }
    this.#stopping.abort(); // whatever of it still goes on
    tell(`It went wrong${after}.`);
    this.#onRefused(notice.tell(error, again));
  }

  #keep(take) {
    this.#kept = take;
    byId("save").disabled = take === null;
  }

  async #save() {
    const { name, blob } = this.#kept;
    byId("save").disabled = true;
    try {
      const address = URL.createObjectURL(await blob());
      Object.assign(document.createElement("a"), { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000); // by then the browser has taken it
    } catch (error) {
      this.#onRefused(notice.tell(error, () => this.#save()));
    } finally {
      byId("save").disabled = this.#kept === null;
    }
  }
}

function tell(words) {
  byId("saying").textContent = words;
}

function endOf(meter) {
  const all = `Said all of it: ${meter.heardSeconds.toFixed(1)} s.`;
  if (meter.factor > 1) return `${all} It is made slower than it is heard here, so it pauses; the download does not.`;
  return meter.gaps ? `${all} It ran dry ${meter.gaps === 1 ? "once" : `${meter.gaps} times`}.` : all;
}
