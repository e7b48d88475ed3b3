// The view that talks. It holds the conversation; the server is sent the whole of it each time.

import { element, node, say } from "./dom.js";
import { follow, Job, REASONS } from "./job.js";
import { Meters } from "./meters.js";
import { following, legend } from "./pane.js";
import { numAlternatives, sampling } from "./settings.js";
import { TokenText } from "./tokens.js";
import { Trouble } from "./trouble.js";

export class Chat {
  #messages = []; // { role, content } as the server takes them, the system's words apart
  #meters = new Meters();
  #trouble = new Trouble();
  #log = element("log");
  #job;

  constructor() {
    const note = node("p", { className: "note", role: "status" });
    element("chat-form").before(this.#trouble.box);
    element("view-chat").append(node("div", { className: "below" }, legend(), ...this.#meters.parts), note);
    this.#job = new Job({ note, trouble: this.#trouble, onBusy: (isBusy) => this.#setBusy(isBusy) });
    element("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    element("chat-stop").addEventListener("click", () => this.stop());
    element("chat-new").addEventListener("click", () => this.#begin());
    element("chat-again").addEventListener("click", () => this.#again());
    this.#begin();
  }

  start() {
    const content = element("message").value.trim();
    if (!content || this.#job.isRunning) return;
    const fields = sampling();
    if (fields === null) return;
    element("message").value = "";
    this.#add("user", content);
    this.#answer(fields);
  }

  stop() {
    return this.#job.stop();
  }

  /** Forget the conversation. */
  #begin() {
    this.stop();
    this.#messages = [];
    this.#meters.clear();
    this.#trouble.hide();
    this.#log.replaceChildren(node("p", { className: "empty" }, "The conversation appears here."));
    element("chat-again").disabled = true;
  }

  /** Write the last answer anew. */
  #again() {
    const fields = sampling();
    if (fields === null || !this.#messages.length) return;
    if (this.#messages.at(-1).role === "assistant") {
      this.#messages.pop();
      this.#log.lastElementChild.remove();
    }
    this.#answer(fields);
  }

  #answer(fields) {
    const body = { messages: this.#request(), logprobs: true, top_logprobs: numAlternatives(), ...fields };
    let message = null;
    const text = { add: (step) => following(this.#log, () => message.add(step)) };
    const ending = (reason) => {
      message.close();
      return `${this.#meters.words}; ${REASONS[reason] ?? "done"}. Seed ${body.seed}.`;
    };
    const work = async (signal) => {
      message?.drop(); // of a try that failed
      message = this.#open();
      try {
        return ending(await follow("/v1/chat/completions", body, { text, meters: this.#meters }, signal));
      } catch (error) {
        if (error.name !== "AbortError") message.close();
        throw error;
      }
    };
    this.#job.run(work, () => ending("stopped"));
  }

  #request() {
    const words = element("system").value.trim();
    return words ? [{ role: "system", content: words }, ...this.#messages] : [...this.#messages];
  }

  /** An answer to be written: text is added, then it is kept, or dropped. */
  #open() {
    const place = node("div");
    const item = this.#add("assistant", place);
    const text = new TokenText(place, "Answer; arrow keys go from token to token");
    const record = { role: "assistant", content: "" };
    return {
      add: (step) => text.add(step),
      drop: () => {
        item.remove();
        this.#messages = this.#messages.filter((message) => message !== record);
      },
      close: () => {
        record.content = text.text;
        if (record.content) this.#messages.push(record);
        else item.remove();
      },
    };
  }

  #add(role, content) {
    this.#log.querySelector(".empty")?.remove();
    const name = node("h2", {}, role === "user" ? "You" : "Model");
    const item = node("section", { className: `message ${role}` }, name, typeof content === "string" ? node("p", {}, content) : content);
    this.#log.append(item);
    this.#log.scrollTop = this.#log.scrollHeight;
    if (role === "user") this.#messages.push({ role, content });
    return item;
  }

  #setBusy(isBusy) {
    this.#log.setAttribute("aria-busy", String(isBusy));
    element("send").disabled = isBusy;
    element("chat-stop").disabled = !isBusy;
    element("chat-again").disabled = isBusy || !this.#messages.length;
    if (!isBusy) say(element("send"), "Send");
  }
}
