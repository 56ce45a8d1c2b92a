// The key that the service asks for: in this tab alone, or on this device if the user says so.

const NAME = "csm-serve-key";

export const key = {
  get value() {
    return sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME) ?? "";
  },

  get kept() {
    return localStorage.getItem(NAME) !== null;
  },

  /** @param {boolean} keep  also when this tab is closed */
  set(value, keep) {
    this.forget();
    (keep ? localStorage : sessionStorage).setItem(NAME, value);
  },

  forget() {
    sessionStorage.removeItem(NAME);
    localStorage.removeItem(NAME);
  },
};
