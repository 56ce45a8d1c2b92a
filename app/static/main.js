// Entry point of the page: creates its parts and handles their events.

import { client } from "./api.js";
import { Dialogue } from "./dialogue.js";
import { byId, make } from "./dom.js";
import { key } from "./key.js";
import { ServiceStatus } from "./service_status.js";
import * as notice from "./notice.js";
import { Sound } from "./sound.js";
import { Speech } from "./speech.js";
import { Talk } from "./talk.js";
import { Tuning } from "./tuning.js";
import { VoiceDialog } from "./voice_dialog.js";
import { Voices } from "./voices.js";
import { playbackModes } from "./playback.js";

const SAMPLE = "This is how I sound. Good to meet you.";

const serviceStatus = new ServiceStatus();
const tuning = new Tuning();
const sound = new Sound();
const speech = new Speech(sound, serviceStatus, handleError);
const talk = new Talk(sound, handleError);
const voices = new Voices({
  play: (id) => speak(SAMPLE, id),
  replace: (id) => voiceDialog.open(id),
  remove: confirmDelete,
  chosen: () => talk.configure(),
  listed: () => dialogue.update(),
});
const dialogue = new Dialogue(voices);
const voiceDialog = new VoiceDialog(async (id, replaced, warnings) => {
  voices.forget(id);
  await refreshVoices();
  voices.choose(id);
  byId("voices-said").textContent = `${id} was ${replaced ? "replaced" : "added"} and selected.`;
  byId("voices-warnings").replaceChildren(...warnings.map((each) => make("li", { textContent: `The recording: ${each}.` })));
});

const inDialogue = () => byId("mode-dialogue").checked;
const playbackMode = () => document.querySelector("input[name=way]:checked").value;
const chosenFormats = {}; // by playback mode

function speak(text, voice) {
  const parameters = { ...tuning.parameters, text, ...(voice && { voice_id: voice }) };
  return speech.speak(parameters, inDialogue() ? "http" : playbackMode(), byId("format").value);
}

function speakDialogue() {
  return speech.speak({ ...tuning.parameters, ...dialogue.parameters }, playbackMode(), byId("format").value);
}

/** Handles the result of `describeError`: asks for the key, or waits until the service is ready. */
function handleError({ focusKey, waits }) {
  if (focusKey) showKeyForm();
  if (waits) {
    serviceStatus.waitUntilReady().then(() => {
      notice.clear();
      byId("saying").textContent = "The service is ready: press Speak.";
    });
  }
}

// ---- API key

function showKeyForm() {
  byId("key-state").textContent = "Key needed";
  byId("key-box").open = true;
  byId("key").focus();
}

async function loadVoices() {
  if (!(await refreshVoices())) return;
  byId("key-state").textContent = "Key set";
  byId("key-box").open = false;
  byId("key-forget").hidden = false;
  notice.clear();
  byId({ talk: "talk", dialogue: "script", speak: "text" }[mode()]).focus();
  serviceStatus.refresh();
}

byId("key-forget").onclick = () => {
  key.forget();
  location.reload();
};

byId("key-form").onsubmit = (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim(), byId("key-keep").checked);
  loadVoices();
};

byId("docs").onclick = ({ currentTarget }) => (currentTarget.href = client.urlOf("/docs"));

// ---- modes

const mode = () => document.querySelector("input[name=mode]:checked").value;

function showMode() {
  const talks = mode() === "talk";
  byId("speak-card").hidden = talks;
  byId("talk-card").hidden = !talks;
  byId("speak-title").textContent = inDialogue() ? "Dialogue" : "Speak";
  for (const id of ["script-field", "gap-field"]) byId(id).hidden = !inDialogue();
  for (const id of ["text-field", "voice-field"]) byId(id).hidden = inDialogue();
  byId("text").disabled = inDialogue(); // else the form would check it
  byId("script").disabled = byId("gap").disabled = !inDialogue();
  byId("cast-box").hidden = !inDialogue();
  speech.stop();
  if (!talks) talk.stop();
  showPlaybackModes();
}

byId("modes").onchange = () => {
  history.replaceState(null, "", mode() === "speak" ? location.pathname : `#${mode()}`);
  showMode();
};

// ---- voices

/** Returns whether it succeeded. */
async function refreshVoices() {
  try {
    await voices.refresh();
    return true;
  } catch (error) {
    handleError(notice.show(error, loadVoices));
    return false;
  }
}

async function confirmDelete(id) {
  const dialog = byId("delete-dialog");
  byId("delete-name").textContent = id;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "delete") return;
  try {
    await client.deleteVoice(id);
    voices.forget(id);
    await refreshVoices();
    byId("voices-said").textContent = `${id} was deleted.`;
    byId("add-voice").focus();
  } catch (error) {
    handleError(notice.show(error, () => confirmDelete(id)));
  }
}

byId("add-voice").onclick = () => voiceDialog.open();

// ---- text and playback

function showFormats() {
  const formats = playbackModes[playbackMode()].formats();
  byId("format").replaceChildren(...formats.map((format) => new Option(format, format)));
  byId("format").value = chosenFormats[playbackMode()] ?? formats[0];
  byId("format").disabled = formats.length < 2;
}

function showPlaybackModes() {
  const offered = inDialogue() ? ["http", "source"] : ["socket", "source", "element"];
  const reasons = new Set();
  for (const input of document.querySelectorAll("input[name=way]")) {
    const reason = playbackModes[input.value].unavailableReason();
    input.closest("label").hidden = !offered.includes(input.value);
    input.disabled = reason !== "" || !offered.includes(input.value);
    if (reason && offered.includes(input.value)) reasons.add(reason);
  }
  if (document.querySelector("input[name=way]:checked").disabled) {
    const enabled = document.querySelector("input[name=way]:enabled");
    if (enabled) enabled.checked = true;
  }
  byId("way-hint").textContent = [...reasons].join(" ");
  byId("way-hint").hidden = reasons.size === 0;
  showFormats();
}

function count() {
  byId("count").textContent = `${[...byId("text").value].length} characters`;
}

byId("speech").onsubmit = (event) => {
  event.preventDefault();
  if (inDialogue()) speakDialogue();
  else speak(byId("text").value, byId("voice").value);
};
byId("text").oninput = count;
byId("format").onchange = ({ target }) => (chosenFormats[playbackMode()] = target.value);
document.querySelector(".ways").addEventListener("change", showFormats);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && [byId("text"), byId("script")].includes(event.target))
    byId("speech").requestSubmit();
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  speech.stop();
  talk.interrupt();
});
byId("seed-keep").onclick = () => tuning.keepSeed(byId("seed").textContent);

for (const name of ["talk", "dialogue"]) if (location.hash === `#${name}`) byId(`mode-${name}`).checked = true;
showMode();
count();
serviceStatus.start();
byId("key-keep").checked = key.remembered;
if (key.value) loadVoices();
else byId("key").focus();
