// The API key: kept by this tab for as long as it lives, and sent nowhere but to this server.

import { element } from "./dom.js";

const NAME = "slipstream-api-key";
let memory = ""; // where the browser keeps nothing for this page

function read() {
  try {
    return sessionStorage.getItem(NAME) ?? memory;
  } catch {
    return memory;
  }
}

function keep(key) {
  memory = key;
  try {
    if (key) sessionStorage.setItem(NAME, key);
    else sessionStorage.removeItem(NAME);
  } catch {
    // the tab's memory has it
  }
}

/** What a request must carry. */
export function authorization() {
  const key = read();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Show the field; a key that comes is announced as a "key" event on the document. */
export function askForKey() {
  element("key").value = read();
  element("key-dialog").showModal();
  element("key").select();
}

/** Wire up the field. */
export function initKey() {
  const dialog = element("key-dialog");
  const close = (key) => {
    keep(key);
    showWhetherKept();
    dialog.close();
    document.dispatchEvent(new Event("key"));
  };
  element("key-button").addEventListener("click", askForKey);
  element("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    close(element("key").value.trim());
  });
  element("key-forget").addEventListener("click", () => close(""));
  element("key-cancel").addEventListener("click", () => dialog.close());
  showWhetherKept();
}

function showWhetherKept() {
  const isKept = read() !== "";
  element("key-button").dataset.kept = isKept;
  element("key-button").setAttribute("aria-label", isKept ? "API key, one is kept" : "API key");
  element("key-forget").disabled = !isKept;
}
