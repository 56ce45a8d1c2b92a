// The one place where the page says what went wrong and what to do.

import { adviceOn } from "./advice.js";
import { byId, make } from "./dom.js";

const box = byId("notice");
let counting = null;

export function clear() {
  clearInterval(counting);
  box.hidden = true;
  box.replaceChildren();
}

/**
 * Show an error.
 * @param {() => void} [retry]  what a button to try again does
 * @returns what adviceOn says about it
 */
export function tell(error, retry) {
  const told = adviceOn(error);
  clear();
  box.dataset.kind = told.waits || told.retryAfter ? "hint" : "error";
  const close = make("button", { type: "button", className: "quiet close", textContent: "Close", onclick: clear });
  box.append(
    make("p", {}, make("strong", { textContent: `${told.title}: ` }), told.detail),
    make("p", { textContent: told.advice }),
  );
  const again = retry && !told.focusKey ? retryButton(retry, told.retryAfter ?? 0) : null;
  box.append(make("div", { className: "actions" }, again, close));
  box.hidden = false;
  box.scrollIntoView({ block: "nearest" }); // on a phone the button that led here is further down
  return told;
}

function retryButton(retry, seconds) {
  const button = make("button", { type: "button", textContent: "Try again" });
  button.onclick = () => {
    clear();
    retry();
  };
  let left = Math.ceil(seconds);
  const tick = () => {
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left-- <= 0) clearInterval(counting);
  };
  tick();
  counting = setInterval(tick, 1000);
  return button;
}
