// Which view is shown: the one that the address names behind its #, so that links and the back button work.

import { element } from "./dom.js";

const NAMES = { complete: "Complete", chat: "Chat", compare: "Compare", cluster: "Cluster" };
const listeners = [];

/** The view that is shown. */
export function currentView() {
  const name = location.hash.slice(1);
  return Object.hasOwn(NAMES, name) ? name : "complete";
}

/** Be told the view's name whenever it changes, and once at the start. */
export const onView = (listener) => listeners.push(listener);

function show() {
  const name = currentView();
  document.title = `${NAMES[name]} · Slipstream`;
  element("main").dataset.view = name;
  for (const part of document.querySelectorAll("[data-views]")) {
    part.hidden = !part.dataset.views.split(" ").includes(name);
  }
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const listener of listeners) listener(name);
}

/** Show the first view, and follow the address. */
export function initViews() {
  addEventListener("hashchange", show);
  show();
}
