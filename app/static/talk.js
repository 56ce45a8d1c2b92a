// The conversation's part of the page: its buttons, what they show, and what is missing.

import { byId, make } from "./dom.js";
import { Captions } from "./captions.js";
import { Conversation } from "./conversation.js";
import { download } from "./download.js";
import { Levels } from "./levels.js";
import * as microphone from "./client/microphone.js";
import * as notice from "./notice.js";

const STATES = {
  off: "Off",
  connecting: "Connecting …",
  lost: "Connection lost: reconnecting …",
  listening: "Listening",
  hearing: "You speak",
  thinking: "Thinking …",
  speaking: "Answering",
};
const FIGURES = ["total_ms", "silence_ms", "stt_ms", "llm_ms", "first_frame_ms"];

export class Talk {
  #sound;
  #onError;
  #captions = new Captions();
  #levels = new Levels();
  #microphone = null;
  #conversation = null;
  #talking = false; // from the start on, until the end
  #starts = 0; // also counts ends: a start that was overtaken by one is given up

  /** onError: called with the result of describeError. */
  constructor(sound, onError) {
    this.#sound = sound;
    this.#onError = onError;
    byId("talk").onclick = () => (this.#talking ? this.stop() : this.start());
    byId("talk-save").onclick = () => download("conversation.txt", this.#captions.file());
    byId("push-to-talk").onchange = () => this.configure();
    this.#holdWith(byId("talk-hold"));
    byId("talk-typing").onsubmit = (event) => {
      event.preventDefault();
      this.#sendLine();
    };
    const reason = unavailableReason();
    byId("talk").disabled = reason !== "";
    byId("talk-line").disabled = byId("talk-send").disabled = !globalThis.AudioWorkletNode; // it needs no microphone
    showMissing(reason ? [reason] : []);
    this.#showState("off");
  }

  get #settings() {
    return { voice: byId("talk-voice").value, pushToTalk: byId("push-to-talk").checked };
  }

  /** Begins a new conversation: with the microphone, or with a typed message in its place. */
  async start(typed = "") {
    const start = ++this.#starts;
    this.#talking = true;
    this.#showState("connecting");
    this.#showButtons();
    notice.clear();
    showProblem("");
    try {
      await this.#sound.wake();
      const opened = typed ? null : await this.#openMicrophone();
      if (start !== this.#starts) {
        opened?.close();
        return;
      }
      this.#converse(opened);
      if (typed) this.#conversation.say(typed);
    } catch (error) {
      if (start === this.#starts) this.#fail(error);
    }
  }

  #openMicrophone() {
    return microphone.Microphone.open(
      (pcm, level) => {
        this.#levels.microphone(level);
        this.#conversation?.hear(pcm);
      },
      () => this.#fail(new microphone.MicrophoneError("The microphone was disconnected.")),
    );
  }

  #converse(opened) {
    this.#microphone = opened;
    this.#showButtons();
    this.#captions.clear();
    this.#levels.start(this.#sound.analyser);
    this.#conversation = new Conversation({
      sound: this.#sound,
      captions: this.#captions,
      settings: this.#settings,
      show: {
        state: (state) => this.#showState(state),
        session: showSession,
        latency: showLatency,
        problem: showProblem,
        refused: (error) => this.#fail(error),
      },
    });
  }

  /** Sends the typed line. */
  #sendLine() {
    const text = byId("talk-line").value.trim();
    if (!text) return;
    if (this.#conversation) this.#conversation.say(text);
    else if (!this.#talking) this.start(text);
    else return; // the microphone is being opened: the line stays
    byId("talk-line").value = "";
    showProblem("");
  }

  stop() {
    this.#starts += 1;
    this.#talking = false;
    this.#conversation?.close();
    this.#microphone?.close();
    this.#conversation = this.#microphone = null;
    this.#levels.stop();
    this.#showState("off");
    this.#showButtons();
  }

  /** Ends the answer that is being given. */
  interrupt() {
    this.#conversation?.interrupt();
  }

  /** Applies the chosen voice and push-to-talk. */
  configure() {
    this.#conversation?.configure(this.#settings);
    this.#showButtons();
  }

  #fail(error) {
    this.stop();
    this.#onError(notice.show(error, () => this.start()));
  }

  /** Push-to-talk: with the pointer, or with Space or Enter. */
  #holdWith(button) {
    const press = () => {
      button.setAttribute("aria-pressed", "true");
      this.#conversation?.press();
    };
    const release = () => {
      button.setAttribute("aria-pressed", "false");
      this.#conversation?.release();
    };
    const isKey = (event) => event.key === " " || event.key === "Enter";
    button.onpointerdown = (event) => {
      button.setPointerCapture(event.pointerId); // a finger may slide off
      press();
    };
    button.onpointerup = button.onpointercancel = button.onblur = release;
    button.oncontextmenu = (event) => event.preventDefault(); // of a long touch
    button.onkeydown = (event) => {
      if (!isKey(event)) return;
      event.preventDefault();
      if (!event.repeat) press();
    };
    button.onkeyup = (event) => isKey(event) && release();
  }

  #showState(state) {
    const pill = byId("talk-state");
    pill.textContent = STATES[state];
    pill.dataset.state = state;
    byId("talk-hold").disabled = ["off", "connecting", "lost"].includes(state);
    if (state === "hearing") showProblem("");
  }

  #showButtons() {
    byId("talk").textContent = this.#talking ? "End conversation" : "Start talking";
    byId("talk").classList.toggle("main", !this.#talking);
    byId("talk-hold").hidden = !this.#microphone || !this.#settings.pushToTalk;
  }
}

function unavailableReason() {
  const reason = microphone.unavailableReason();
  return reason || (globalThis.AudioWorkletNode ? "" : "This browser has no audio worklets.");
}

/** What answers here, and what is missing for a real conversation. */
function showSession({ llm, stt }) {
  const missing = [];
  if (llm === "echo") missing.push("No language model is configured (LLM_BASE_URL): the service repeats what it hears.");
  if (stt === "none") missing.push("No speech recogniser is configured (STT_BASE_URL or STT_MODEL): the service hears you, but understands no words.");
  if (stt === "pocketsphinx") missing.push("Speech is recognised by pocketsphinx, which gets many words wrong: set STT_BASE_URL, or STT_MODEL=moonshine/base, or install csm-serve[stt].");
  showMissing(missing);
}

function showMissing(reasons) {
  byId("talk-missing").replaceChildren(...reasons.map((reason) => make("li", { textContent: reason })));
}

function showLatency(metadata) {
  for (const name of FIGURES) {
    const milliseconds = Number.parseFloat(metadata[name]);
    byId(`talk-${name.replaceAll("_", "-")}`).textContent = Number.isFinite(milliseconds) ? `${Math.round(milliseconds)} ms` : "–";
  }
}

function showProblem(text) {
  byId("talk-problem").textContent = text;
}
