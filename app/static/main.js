// The page, put together: what each press does.

import { call } from "./api.js";
import { byId } from "./dom.js";
import { key } from "./key.js";
import { Machine } from "./machine.js";
import * as notice from "./notice.js";
import { Sound } from "./sound.js";
import { Speech } from "./speech.js";
import { Tuning } from "./tuning.js";
import { VoiceDialog } from "./voice_dialog.js";
import { Voices } from "./voices.js";
import { ways } from "./way.js";

const SAMPLE = "This is how I sound. Good to meet you.";

const machine = new Machine();
const tuning = new Tuning();
const speech = new Speech(new Sound(), machine, afterRefusal);
const voices = new Voices({
  hear: (id) => speak(SAMPLE, id),
  replace: (id) => voiceDialog.open(id),
  remove: askToDelete,
});
const voiceDialog = new VoiceDialog(async (id, replaced) => {
  voices.forget(id);
  await showVoices();
  voices.choose(id);
  byId("voices-said").textContent = `${id} is ${replaced ? "replaced" : "there"}, and chosen.`;
});

const way = () => document.querySelector("input[name=way]:checked").value;
const wanted = {}; // the format chosen for each way

function speak(text, voice) {
  const parameters = { ...tuning.parameters, text, ...(voice && { voice_id: voice }) };
  return speech.say(parameters, way(), byId("format").value);
}

/** Show the way on from what an error said. */
function afterRefusal({ focusKey, waits }) {
  if (focusKey) askForKey();
  if (waits) {
    machine.untilReady().then(() => {
      notice.clear();
      byId("saying").textContent = "It is ready now: press Speak.";
    });
  }
}

// ---- the key

function askForKey() {
  byId("key-state").textContent = "Key needed";
  byId("key-box").open = true;
  byId("key").focus();
}

async function tryKey() {
  if (!(await showVoices())) return;
  byId("key-state").textContent = "Key set";
  byId("key-box").open = false;
  byId("key-forget").hidden = false;
  notice.clear();
  byId("text").focus();
  machine.look();
}

byId("key-forget").onclick = () => {
  key.forget();
  location.reload();
};

byId("key-form").onsubmit = (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim(), byId("key-keep").checked);
  tryKey();
};

// ---- the voices

/** Returns whether it could. */
async function showVoices() {
  try {
    await voices.refresh();
    return true;
  } catch (error) {
    afterRefusal(notice.tell(error, tryKey));
    return false;
  }
}

async function askToDelete(id) {
  const dialog = byId("delete-dialog");
  byId("delete-name").textContent = id;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "delete") return;
  try {
    await call(`/voices/${encodeURIComponent(id)}`, { method: "DELETE" });
    voices.forget(id);
    await showVoices();
    byId("voices-said").textContent = `${id} is deleted.`;
    byId("add-voice").focus();
  } catch (error) {
    afterRefusal(notice.tell(error, () => askToDelete(id)));
  }
}

byId("add-voice").onclick = () => voiceDialog.open();

// ---- what to say, and how

function showFormats() {
  const formats = ways[way()].formats();
  byId("format").replaceChildren(...formats.map((format) => new Option(format, format)));
  byId("format").value = wanted[way()] ?? formats[0];
  byId("format").disabled = formats.length < 2;
}

function showWays() {
  const closed = [];
  for (const input of document.querySelectorAll("input[name=way]")) {
    const why = ways[input.value].obstacle();
    input.disabled = why !== "";
    if (why) closed.push(why);
  }
  if (document.querySelector("input[name=way]:checked").disabled) {
    document.querySelector("input[name=way]:enabled").checked = true;
  }
  byId("way-hint").textContent = closed.join(" ");
  byId("way-hint").hidden = closed.length === 0;
  showFormats();
}

function count() {
  byId("count").textContent = `${[...byId("text").value].length} characters`;
}

byId("speech").onsubmit = (event) => {
  event.preventDefault();
  speak(byId("text").value, byId("voice").value);
};
byId("text").oninput = count;
byId("format").onchange = ({ target }) => (wanted[way()] = target.value);
document.querySelector(".ways").addEventListener("change", showFormats);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === byId("text"))
    byId("speech").requestSubmit();
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) speech.stop();
});
byId("seed-keep").onclick = () => tuning.keepSeed(byId("seed").textContent);

showWays();
count();
machine.start();
byId("key-keep").checked = key.kept;
if (key.value) tryKey();
else byId("key").focus();
