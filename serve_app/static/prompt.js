// The prompt that the views of completions share, and its buttons.

import { element, say } from "./dom.js";
import { currentView, onView } from "./views.js";

const WORDS = { complete: "Write", compare: "Compare" };

export class Prompt {
  #busy = { complete: false, compare: false };

  /** `views` maps a view's name to what it does when it is sent, `{ start, stop }`. */
  constructor(views) {
    this.views = views;
    element("prompt-form").addEventListener("submit", (event) => {
      event.preventDefault();
      views[currentView()]?.start();
    });
    element("stop").addEventListener("click", () => views[currentView()]?.stop());
    const prompt = element("prompt");
    prompt.setSelectionRange(prompt.value.length, prompt.value.length); // who begins to type goes on with the text
    onView(() => this.#show());
  }

  /** Say whether a view is at work. */
  setBusy(view, isBusy) {
    this.#busy[view] = isBusy;
    this.#show();
  }

  #show() {
    const view = currentView();
    if (!(view in WORDS)) return;
    say(element("write"), this.#busy[view] ? "Again" : WORDS[view]);
    element("stop").disabled = !this.#busy[view];
  }
}
