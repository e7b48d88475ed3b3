// The playground: puts its parts together and listens to the keyboard.

import { Account, workerOf } from "./account.js";
import { hideCard, moveCard } from "./card.js";
import { Chat } from "./chat.js";
import { Cluster } from "./cluster.js";
import { Compare } from "./compare.js";
import { Complete } from "./complete.js";
import { element, say } from "./dom.js";
import { initKey } from "./key.js";
import { Prompt } from "./prompt.js";
import { initSettings } from "./settings.js";
import { initTheme } from "./theme.js";
import { currentView, initViews, onView } from "./views.js";
import { plural } from "./words.js";

const account = new Account();
const views = {
  complete: new Complete((isBusy) => prompt.setBusy("complete", isBusy)),
  compare: new Compare((isBusy) => prompt.setBusy("compare", isBusy)),
  chat: new Chat(),
  cluster: new Cluster(account),
};
const prompt = new Prompt({ complete: views.complete, compare: views.compare });

/** One line on the cluster, for the head of the page. */
function clusterWords({ error, latest, model }) {
  if (error?.status === 401) return ["waiting", "An API key is needed"];
  if (error) return ["gone", error.status === 503 ? "The cluster does not answer" : "The server does not answer"];
  if (!model) return ["waiting", "The model is loading…"];
  const workers = latest.status.workers.map(workerOf).filter(({ isAlive }) => isAlive);
  const count = (role) => plural(workers.filter(({ info }) => info.role === role).length, role);
  return ["ready", `${model} · ${count("target")} · ${count("draft")}`];
}

account.onLook(() => {
  const [state, words] = clusterWords(account);
  element("state").dataset.state = state;
  say(element("state"), words);
});

document.addEventListener("keydown", (event) => {
  if (element("key-dialog").open) return;
  if (event.key === "Escape") {
    hideCard();
    views[currentView()].stop?.();
  }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    views[currentView()].start?.();
  }
});
element("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the view
  element("main").focus();
});
document.addEventListener("key", () => account.look());
document.addEventListener("visibilitychange", () => !document.hidden && account.look());
document.addEventListener("scroll", moveCard, { passive: true, capture: true });

initTheme(element("theme-button"));
initKey();
initSettings();
onView((name) => account.setFast(name === "cluster"));
onView(hideCard);
initViews();
