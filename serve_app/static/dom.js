// Elements found and made. Text goes in as text nodes only, so nothing that a model writes is ever read as markup.

export const element = (id) => document.getElementById(id);

/** Make an element: properties, then children (nodes or strings). */
export function node(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** The same for SVG, where all is attributes. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Set text only where it changes, so that live regions speak only of what is new. */
export function say(place, words) {
  if (place.textContent !== words) place.textContent = words;
}
