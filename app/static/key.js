// API key: stored for this tab, or on this device if the user chooses so.

const NAME = "csm-serve-key";

export const key = {
  get value() {
    return sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME) ?? "";
  },

  get remembered() {
    return localStorage.getItem(NAME) !== null;
  },

  /** @param {boolean} remember  after this tab is closed */
  set(value, remember) {
    this.forget();
    (remember ? localStorage : sessionStorage).setItem(NAME, value);
  },

  forget() {
    sessionStorage.removeItem(NAME);
    localStorage.removeItem(NAME);
  },
};
