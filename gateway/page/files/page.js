// Which view is shown: the list, one run or the subscriptions, by the address behind the #.

import { keys } from "./gateway.js";
import { list } from "./list.js";
import { machines } from "./machines.js";
import { run } from "./run.js";
import { subscriptions } from "./subscriptions.js";
import { visible } from "./words.js";

const main = document.getElementById("main");
let leaving = new AbortController();

const say = (words) => { document.getElementById("said").textContent = words; };

async function sure(question) {
  const dialog = document.getElementById("sure");
  dialog.querySelector("p").textContent = question;
  dialog.showModal();
  return await new Promise((resolve) => {
    dialog.querySelector("form").onsubmit = (event) => resolve(event.submitter?.value === "yes");
    dialog.oncancel = () => resolve(false); // Esc
  });
}

function askForKey(why) {
  leaving.abort();
  main.replaceChildren(document.getElementById("ask").content.cloneNode(true));
  const form = main.querySelector("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    keys.keep(form.key.value.trim());
    const [, view, id] = location.hash.split("/");
    if (view === "shared") location.hash = `#/runs/${id}`; // whose token is not valid any more
    else route();
  });
  form.key.focus();
  say(why);
}

function failed(error, signal) {
  if (signal.aborted && signal !== leaving.signal) return;
  if (error.status === 401) {
    const known = keys.get() !== null;
    keys.forget();
    askForKey(known ? "The key is not valid, or not any more: another one is needed." : "");
  } else if (error.status === 404 || error.status === 410) {
    say("It is not there, or not any more.");
  } else {
    say(error.message);
  }
}

async function route() {
  leaving.abort();
  const own = leaving = new AbortController();
  own.signal.fail = (error) => failed(error, own.signal);
  const [, view, id, token] = location.hash.split("/");
  const shared = view === "shared";
  keys.lend(shared ? token : null);
  for (const name of ["home", "wakes"]) document.getElementById(name).hidden = shared;
  document.getElementById("leave").hidden = shared || keys.get() === null;
  say("");
  main.focus();
  try {
    if (id && (shared || view === "runs")) {
      const name = decodeURIComponent(id);
      document.getElementById("place").textContent = visible(name);
      document.title = visible(name);
      await run(main, { id: name, shared, signal: own.signal, say, sure });
    } else if (view === "subscriptions") {
      document.getElementById("place").textContent = document.title = "Subscriptions";
      await subscriptions(main, { id: id && decodeURIComponent(id), signal: own.signal });
    } else {
      document.getElementById("place").textContent = "";
      document.title = "Runs";
      await list(main, { signal: own.signal, say });
    }
  } catch (error) {
    failed(error, own.signal);
  }
}

document.getElementById("leave").addEventListener("click", () => { keys.forget(); location.hash = "#/"; route(); });
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && /^#\/(runs|subscriptions)\//.test(location.hash) && !document.querySelector("dialog[open]")) location.hash = "#/";
});
addEventListener("hashchange", route);
route();
machines(document.getElementById("machines"));
