// Captions of a conversation: one row for each turn, and all of them as a text to download.

import { byId, make } from "./dom.js";

const NAMES = { user: "You", assistant: "Answer" };

export class Captions {
  #box = byId("captions-box");
  #list = byId("captions");
  #turns = new Map(); // item id -> {role, time, text, note, row}
  #follows = true; // a reader who scrolls back stays there

  constructor() {
    this.#box.onscroll = () => {
      this.#follows = this.#box.scrollHeight - this.#box.scrollTop - this.#box.clientHeight < 40;
    };
  }

  /** The turns with words, oldest first: [{role, text}]. */
  get turns() {
    return [...this.#turns.values()].filter((turn) => turn.text);
  }

  clear() {
    this.#turns.clear();
    this.#list.replaceChildren();
    this.#showEmpty();
  }

  /** Begins a turn of the "user" or the "assistant", if it has not begun. */
  begin(id, role) {
    if (this.#turns.has(id)) return;
    const name = make("b", { textContent: NAMES[role] });
    const row = make("li", { data: { role } }, name, make("span", { className: "words" }), make("small"));
    this.#turns.set(id, { role, time: new Date(), text: "", note: "…", row });
    this.#list.append(row);
    this.#show(id);
    this.#showEmpty();
  }

  append(id, text) {
    const turn = this.#turns.get(id);
    if (turn) this.set(id, turn.text + text);
  }

  /** note: said behind the words, such as "interrupted". */
  set(id, text, note = "") {
    const turn = this.#turns.get(id);
    if (!turn) return;
    Object.assign(turn, { text: text.trimStart(), note });
    this.#show(id);
  }

  note(id, note) {
    const turn = this.#turns.get(id);
    if (turn) this.set(id, turn.text, note);
  }

  /** A text file: a line for each turn. */
  file() {
    const lines = this.turns.map(({ role, time, text, note }) => {
      return `[${time.toLocaleTimeString()}] ${NAMES[role]}: ${text}${note ? ` (${note})` : ""}\n`;
    });
    return new Blob(lines, { type: "text/plain;charset=utf-8" });
  }

  #show(id) {
    const { text, note, row } = this.#turns.get(id);
    row.querySelector(".words").textContent = text;
    row.querySelector("small").textContent = note;
    if (this.#follows) this.#box.scrollTop = this.#box.scrollHeight;
  }

  #showEmpty() {
    byId("captions-empty").hidden = this.#turns.size > 0;
    byId("talk-save").disabled = this.#turns.size === 0;
  }
}
