// Dialog that adds or replaces a voice, from a file or the microphone.

import { client } from "./api.js";
import { describeError } from "./advice.js";
import { byId } from "./dom.js";
import { Recorder, unavailableReason } from "./recorder.js";

// Phonetically varied, easy to read, about ten seconds each.
const SENTENCES = [
  "When the sunlight strikes raindrops in the air, they act as a prism and form a rainbow. People look, but no one ever finds the pot of gold at its end.",
  "The north wind and the sun were arguing over which of them was stronger, when a traveller came along the road, wrapped in a warm, thick coat.",
  "On Thursday we walked down to the old harbour, shared a bag of fresh cherries, and watched the fishing boats come home, one after another.",
];

const dialog = byId("voice-dialog");
const preview = byId("voice-preview");
const transcript = byId("transcript");

export class VoiceDialog {
  #file = null;
  #recorder = null;
  #replacing = null;
  #sentence = 0;
  #onSaved;

  /** onSaved: called with (id, whether it replaced a voice, quality problems of the recording). */
  constructor(onSaved) {
    this.#onSaved = onSaved;
    byId("voice-form").onsubmit = (event) => (event.preventDefault(), this.#save());
    byId("voice-cancel").onclick = () => dialog.close();
    byId("voice-file").onchange = ({ target }) => target.files[0] && this.#setFile(target.files[0]);
    byId("record").onclick = () => (this.#recorder ? this.#recorder.stop() : this.#record());
    byId("other-sentence").onclick = () => this.#showSentence(this.#sentence + 1);
    dialog.addEventListener("close", () => this.#reset());
  }

  /** @param {string | null} replacing  id of the voice to replace */
  open(replacing = null) {
    this.#replacing = replacing;
    byId("voice-form").reset();
    byId("voice-dialog-title").textContent = replacing ? `Replace ${replacing}` : "Add a voice";
    byId("voice-name-field").hidden = replacing !== null;
    byId("voice-name").required = replacing === null;
    byId("record").disabled = unavailableReason() !== "";
    byId("recording").textContent = unavailableReason();
    byId("voice-file").setCustomValidity("Choose a file, or record one below.");
    this.#showError("");
    this.#showSentence(this.#sentence);
    dialog.showModal();
  }

  #showSentence(number) {
    this.#sentence = number % SENTENCES.length;
    byId("sentence").textContent = SENTENCES[this.#sentence];
  }

  #setFile(file) {
    this.#file = file;
    byId("voice-file").setCustomValidity("");
    URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(file);
    preview.hidden = false;
    const name = byId("voice-name");
    if (!name.value) name.value = voiceIdFrom(file.name);
    this.#showError("");
  }

  async #record() {
    this.#showError("");
    try {
      this.#recorder = await Recorder.start((seconds, loudness) => {
        byId("recording").textContent = `${Math.floor(seconds)} s`;
        byId("level").firstElementChild.style.width = `${100 * Math.min(1, loudness)}%`;
      });
    } catch (error) {
      this.#showError(error.message);
      return;
    }
    byId("level").hidden = false;
    byId("record").textContent = "Stop recording";
    byId("other-sentence").disabled = true;
    const file = await this.#recorder.file;
    this.#stopRecording();
    if (!dialog.open) return;
    byId("voice-file").value = "";
    byId("recording").textContent = "Recorded. Listen to it, then save it.";
    transcript.value = SENTENCES[this.#sentence];
    this.#setFile(file);
  }

  async #save() {
    const id = this.#replacing ?? byId("voice-name").value;
    const details = { voiceId: id, transcript: transcript.value.trim(), replace: this.#replacing !== null };
    byId("voice-save").disabled = true;
    try {
      const stored = await client.addVoice(this.#file, details);
      dialog.close();
      this.#onSaved(stored.voice_id, this.#replacing !== null, stored.warnings);
    } catch (error) {
      const { detail, advice } = describeError(error);
      this.#showError(`${detail}. ${advice}`);
    } finally {
      byId("voice-save").disabled = false;
    }
  }

  #showError(text) {
    byId("voice-problem").textContent = text;
    byId("voice-problem").hidden = !text;
  }

  #stopRecording() {
    this.#recorder?.stop();
    this.#recorder = null;
    byId("record").textContent = "Record";
    byId("other-sentence").disabled = false;
    byId("level").hidden = true;
  }

  #reset() {
    this.#stopRecording();
    this.#file = null;
    preview.pause();
    URL.revokeObjectURL(preview.src);
    preview.removeAttribute("src");
    preview.hidden = true;
  }
}

/** A valid voice id from a file name. */
function voiceIdFrom(name) {
  return name
    .normalize("NFC")
    .replace(/[^\p{L}\p{M}\p{Nd} ._()-]+/gu, "-")
    .replace(/^[^\p{L}\p{Nd}]+|-+(?=\.|$)/gu, "")
    .slice(0, 128);
}
