// Script editor: lines `Name: line`, and a voice for each name.

import { byId, make } from "./dom.js";

const NAMED = /^([^\s:][^:]{0,127}):(?:\s+|$)(.*)$/; // as csm-serve speak --dialogue reads it
const SPEAKERS = 4;

/** The turns of a script, each {name, text}, and what is wrong with it; "" if nothing is. */
export function readScript(script) {
  const turns = [];
  for (const [number, line] of script.split("\n").entries()) {
    const named = NAMED.exec(line);
    if (!line.trim() || line.startsWith("#")) continue;
    if (named) turns.push({ name: named[1].trim(), text: named[2].trim() });
    else if (turns.length) turns.at(-1).text = `${turns.at(-1).text} ${line.trim()}`.trim();
    else return { turns, problem: `Line ${number + 1} has no name: write “Name: line”.` };
  }
  const silent = turns.find(({ text }) => !text);
  if (silent) return { turns, problem: `A turn of ${silent.name} has no text.` };
  return { turns, problem: turns.length < 2 ? "A dialogue needs two turns, a line each." : "" };
}

/** voices: whose options the cast may choose from. */
export class Dialogue {
  #voices;
  #chosen = new Map(); // name -> voice id; kept while a name is edited
  #shown = "";

  constructor(voices) {
    this.#voices = voices;
    byId("script").addEventListener("input", () => this.update());
    byId("cast-rows").addEventListener("change", ({ target }) => this.#chosen.set(target.dataset.name, target.value));
    this.update();
  }

  /** Shows a voice for each name, and checks the script. */
  update() {
    const { turns, problem } = readScript(byId("script").value);
    const names = [...new Set(turns.map(({ name }) => name))];
    byId("script").setCustomValidity(problem);
    byId("script-count").textContent = `${count(turns.length, "turn")}, ${count(names.length, "voice")}`;
    byId("cast").hidden = names.length === 0;
    const state = JSON.stringify([names, this.#voices.ids]);
    if (state !== this.#shown) byId("cast-rows").replaceChildren(...names.map((name, index) => this.#row(name, index)));
    this.#shown = state;
  }

  /** The parameters of the request. */
  get parameters() {
    const gap = byId("gap").valueAsNumber;
    const turns = readScript(byId("script").value).turns.map(({ name, text }) => ({
      voice_id: this.#chosen.get(name),
      text,
    }));
    return { turns, ...(Number.isFinite(gap) && { gap_ms: gap }) };
  }

  #row(name, index) {
    const id = `cast-${index}`;
    const select = make("select", { id, data: { name } }, ...this.#voices.options());
    const ids = [...select.options].map(({ value }) => value);
    if (!ids.includes(this.#chosen.get(name))) this.#chosen.set(name, this.#suggest(name, index, ids));
    select.value = this.#chosen.get(name);
    return make("div", { className: "field" }, make("label", { htmlFor: id, textContent: name }), select);
  }

  /** The voice of that name, or the next of the built-in speakers. */
  #suggest(name, index, ids) {
    const named = ids.find((id) => [id, id.replace(/\.[^.]*$/, "")].some((each) => each.toLowerCase() === name.toLowerCase()));
    return named ?? `speaker_${index % SPEAKERS}`;
  }
}

const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
