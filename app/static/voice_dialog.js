// The form that a voice is added or replaced with: from a file, or read aloud.

import { call } from "./api.js";
import { adviceOn } from "./advice.js";
import { byId } from "./dom.js";
import { Recorder, obstacle } from "./recorder.js";

// Rich in sounds, easy to read, and long enough: about ten seconds each.
const SENTENCES = [
  "When the sunlight strikes raindrops in the air, they act as a prism and form a rainbow. People look, but no one ever finds the pot of gold at its end.",
  "The north wind and the sun were arguing over which of them was stronger, when a traveller came along the road, wrapped in a warm, thick coat.",
  "On Thursday we walked down to the old harbour, shared a bag of fresh cherries, and watched the fishing boats come home, one after another.",
];

const dialog = byId("voice-dialog");
const heard = byId("voice-heard");
const transcript = byId("transcript");

export class VoiceDialog {
  #file = null;
  #recorder = null;
  #replacing = null;
  #sentence = 0;
  #onSaved;

  /** onSaved: told (id, whether it replaced one). */
  constructor(onSaved) {
    this.#onSaved = onSaved;
    byId("voice-form").onsubmit = (event) => (event.preventDefault(), this.#save());
    byId("voice-cancel").onclick = () => dialog.close();
    byId("voice-file").onchange = ({ target }) => target.files[0] && this.#take(target.files[0]);
    byId("record").onclick = () => (this.#recorder ? this.#recorder.stop() : this.#record());
    byId("other-sentence").onclick = () => this.#showSentence(this.#sentence + 1);
    dialog.addEventListener("close", () => this.#tidy());
  }

  /** @param {string | null} replacing  the id of the voice that gets another recording */
  open(replacing = null) {
    this.#replacing = replacing;
    byId("voice-form").reset();
    byId("voice-dialog-title").textContent = replacing ? `Replace ${replacing}` : "Add a voice";
    byId("voice-name-field").hidden = replacing !== null;
    byId("voice-name").required = replacing === null;
    byId("record").disabled = obstacle() !== "";
    byId("recording").textContent = obstacle();
    this.#complain("");
    this.#showSentence(this.#sentence);
    dialog.showModal();
  }

  #showSentence(number) {
    this.#sentence = number % SENTENCES.length;
    byId("sentence").textContent = SENTENCES[this.#sentence];
  }

  #take(file) {
    this.#file = file;
    URL.revokeObjectURL(heard.src);
    heard.src = URL.createObjectURL(file);
    heard.hidden = false;
    const name = byId("voice-name");
    if (!name.value) name.value = idFrom(file.name);
    this.#complain("");
  }

  async #record() {
    this.#complain("");
    try {
      this.#recorder = await Recorder.start((seconds, loudness) => {
        byId("recording").textContent = `${Math.floor(seconds)} s`;
        byId("level").firstElementChild.style.width = `${100 * Math.min(1, loudness)}%`;
      });
    } catch (error) {
      this.#complain(error.message);
      return;
    }
    byId("level").hidden = false;
    byId("record").textContent = "Stop recording";
    byId("other-sentence").disabled = true;
    const file = await this.#recorder.file;
    this.#rest();
    if (!dialog.open) return;
    byId("voice-file").value = "";
    byId("recording").textContent = "Recorded. Listen to it, then save it.";
    transcript.value = SENTENCES[this.#sentence];
    this.#take(file);
  }

  async #save() {
    if (!this.#file) {
      this.#complain("Choose a recording, or make one.");
      byId("voice-file").focus();
      return;
    }
    const id = this.#replacing ?? byId("voice-name").value;
    const body = new FormData();
    body.set("file", this.#file, this.#file.name);
    body.set("transcript", transcript.value.trim());
    if (!this.#replacing) body.set("voice_id", id);
    const path = this.#replacing ? `/voices/${encodeURIComponent(id)}` : "/voices";
    byId("voice-save").disabled = true;
    try {
      await call(path, { method: this.#replacing ? "PUT" : "POST", body });
      dialog.close();
      this.#onSaved(id, this.#replacing !== null);
    } catch (error) {
      const { detail, advice } = adviceOn(error);
      this.#complain(`${detail}. ${advice}`);
    } finally {
      byId("voice-save").disabled = false;
    }
  }

  #complain(words) {
    byId("voice-problem").textContent = words;
    byId("voice-problem").hidden = !words;
  }

  /** Nothing is being recorded any more. */
  #rest() {
    this.#recorder?.stop();
    this.#recorder = null;
    byId("record").textContent = "Record";
    byId("other-sentence").disabled = false;
    byId("level").hidden = true;
  }

  #tidy() {
    this.#rest();
    this.#file = null;
    heard.pause();
    URL.revokeObjectURL(heard.src);
    heard.removeAttribute("src");
    heard.hidden = true;
  }
}

/** What of a file's name can be the id of a voice. */
function idFrom(name) {
  return name
    .normalize("NFKD")
    .replace(/[^A-Za-z0-9._-]+/g, "-")
    .replace(/^[.-]+|-+(?=\.|$)/g, "")
    .slice(0, 128);
}
