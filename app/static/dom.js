// DOM helpers. Strings become text nodes, never HTML.

/** The element with an id. Throws if it is missing. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element with the id ${id}`);
  return found;
}

/** Creates an element. Children are elements or strings. */
export function make(name, properties = {}, ...children) {
  const { attributes = {}, data = {}, ...others } = properties;
  const element = Object.assign(document.createElement(name), others);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  Object.assign(element.dataset, data);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
