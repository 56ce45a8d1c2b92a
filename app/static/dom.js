// Elements of the page. Text only ever becomes text: there is no way in here for HTML.

/** The element with an id, which has to be there. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element with the id ${id}`);
  return found;
}

/** A new element. Properties are set as they are; children are elements or text. */
export function make(name, properties = {}, ...children) {
  const { attributes = {}, data = {}, ...others } = properties;
  const element = Object.assign(document.createElement(name), others);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  Object.assign(element.dataset, data);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
