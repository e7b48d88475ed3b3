// A sheet of paper for one text, with what is known of its writing below.

import { element, node } from "./dom.js";
import { follow } from "./job.js";
import { Meters } from "./meters.js";
import { TokenText } from "./tokens.js";

const NEAR = 60; // pixels from the end that still are the end

/** What the colours mean; which of the two is shown depends on what they stand for. */
export const legend = () => element("legend").content.cloneNode(true);

export class Pane {
  meters = new Meters();

  /** Built into `place`. */
  constructor(place, label) {
    const sheet = node("div", { className: "sheet" });
    this.text = new TokenText(sheet, `${label}; arrow keys go from token to token`);
    sheet.append(node("span", { className: "empty" }, "The text appears here as it is written."));
    place.append(sheet, node("div", { className: "below" }, legend(), ...this.meters.parts));
  }

  /** Say whether its text is being written. */
  setBusy(isBusy) {
    this.text.place.setAttribute("aria-busy", String(isBusy));
  }

  /** Stream a completion; gives why it ended. */
  write(body, signal) {
    this.text.clear(body.prompt);
    const text = { add: (step) => following(this.text.place, () => this.text.add(step)) };
    return follow("/v1/completions", body, { text, meters: this.meters }, signal);
  }
}

/** Add to a place that scrolls, and stay at its end if that is where it was. */
export function following(place, add) {
  const isAtEnd = place.scrollHeight - place.scrollTop - place.clientHeight < NEAR;
  add();
  if (isAtEnd) place.scrollTop = place.scrollHeight;
}
