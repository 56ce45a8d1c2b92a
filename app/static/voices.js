// List of voices, with actions on each, and the voice selection.

import { client } from "./api.js";
import { byId, make } from "./dom.js";

const SPEAKER_IDS = Array.from({ length: 4 }, (_, number) => `speaker_${number}`); // built-in speakers offered

const list = byId("voices");
const choices = [byId("voice"), byId("talk-voice")]; // of speech and of conversations: they show the same

/** actions: {play, replace, remove}, each called with a voice id, and {chosen, listed}, called without. */
export class Voices {
  #actions;
  #details = new Map(); // id -> GET /voices/{id}
  #own = new Set(); // ids that can be replaced and deleted, as far as is known
  #observer;
  ids = []; // of the recordings

  constructor(actions) {
    this.#actions = actions;
    // Details take a request per voice, so they are loaded for visible rows only.
    this.#observer = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) if (isIntersecting) this.#describe(target);
    });
    for (const each of choices) each.addEventListener("change", () => this.choose(each.value));
  }

  /** Loads and shows the list. Throws what `call` throws. */
  async refresh() {
    const ids = await client.voices();
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    this.#observer.disconnect();
    list.replaceChildren(...ids.map((id) => this.#row(id)));
    byId("voices-empty").hidden = ids.length > 0;
    byId("voices-empty").textContent = "No voices yet. A few clear seconds of speech are enough.";
    this.ids = ids;
    this.#offer(ids);
    this.#actions.listed();
    if (focused) [...list.querySelectorAll("button")].find((each) => each.dataset.focus === focused)?.focus();
  }

  /** Drops the cached details of a changed voice. */
  forget(id) {
    this.#details.delete(id);
  }

  /** The id of the chosen voice; "" for the default. */
  get chosen() {
    return choices[0].value;
  }

  choose(id) {
    for (const each of choices) each.value = id;
    this.#mark();
    this.#actions.chosen();
  }

  #offer(ids) {
    const before = this.chosen;
    for (const each of choices) each.replaceChildren(new Option("Default voice", ""), ...this.options());
    this.choose([...ids, ...SPEAKER_IDS].includes(before) ? before : "");
  }

  /** New options of a select, for all voices. */
  options() {
    const group = (label, names) => make("optgroup", { label }, ...names.map((name) => new Option(name, name)));
    return [
      ...(this.ids.length ? [group("Recorded", this.ids)] : []),
      group("Built-in speakers", SPEAKER_IDS),
    ];
  }

  #mark() {
    for (const row of list.children)
      row.querySelector(".name").setAttribute("aria-pressed", String(row.dataset.voice === this.chosen));
  }

  #row(id) {
    const button = (action, words, properties = {}) =>
      make("button", {
        type: "button",
        textContent: words,
        className: "quiet",
        onclick: () => this.#actions[action](id),
        data: { action, focus: `${action} ${id}` },
        attributes: { "aria-label": `${words} ${id}` },
        ...properties,
      });
    const name = make("button", {
      type: "button",
      className: "name",
      textContent: id,
      title: `Speak with ${id}`,
      data: { focus: `name ${id}` },
    });
    name.onclick = () => this.choose(name.getAttribute("aria-pressed") === "true" ? "" : id);
    const about = make("span", { className: "hint about" });
    const row = make(
      "li",
      { data: { voice: id } },
      make("div", { className: "who" }, name, about),
      make(
        "div",
        { className: "deeds" },
        button("play", "Play"),
        button("replace", "Replace"),
        button("remove", "Delete"),
      ),
    );
    showChanges(row, this.#own.has(id));
    this.#observer.observe(row);
    return row;
  }

  async #describe(row) {
    this.#observer.unobserve(row);
    const id = row.dataset.voice;
    const about = row.querySelector(".about");
    try {
      if (!this.#details.has(id)) this.#details.set(id, await client.voice(id));
      const { seconds, has_transcript: transcribed, preloaded } = this.#details.get(id);
      about.textContent = [
        `${seconds.toFixed(1)} s`,
        transcribed ? "with transcript" : "no transcript",
        preloaded ? "preloaded" : null,
      ]
        .filter(Boolean)
        .join(" · ");
      if (preloaded) this.#own.delete(id);
      else this.#own.add(id);
      showChanges(row, !preloaded);
    } catch (error) {
      about.textContent = error.message;
      showChanges(row, true); // of a voice that cannot be read: the service decides
    }
  }
}

/** Whether a row has its buttons Replace and Delete. */
function showChanges(row, shown) {
  for (const each of row.querySelectorAll("[data-action=replace], [data-action=remove]")) each.hidden = !shown;
}
