// Short words to the person: shown for a while, said to a screen reader, or asked.

import { byId, element } from "./dom.js";
import { text } from "./strings.js";

const SHOWN_FOR_MS = 8000;
let timer;

/** Says something to those who hear the page, once and without moving the focus. */
export function announce(words) {
  byId("announcer").textContent = words;
}

/** Shows a line at the bottom for a while; `action` is {label, run}. */
export function notify(words, action = null) {
  const notice = byId("notice");
  const hide = () => {
    clearTimeout(timer);
    notice.hidden = true;
  };
  const run = () => {
    hide();
    action.run();
  };
  const button =
    action && element("button", { type: "button", class: "quiet-button", on: { click: run } }, action.label);
  notice.replaceChildren(words, ...(button ? [button] : []));
  notice.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(hide, SHOWN_FOR_MS);
}

/** Asks a question whose answer is `label` or no; a Promise of true or false. */
export function confirmed(question, label) {
  return new Promise((resolve) => {
    const dialog = byId("question-dialog");
    byId("question").textContent = question;
    byId("question-yes").textContent = label;
    byId("question-yes").onclick = () => dialog.close("yes");
    byId("question-no").onclick = () => dialog.close();
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
    byId("question-no").focus();
  });
}

/** Asks for the API key; a Promise of it, or of null. */
export function askForKey(wasRefused) {
  return new Promise((resolve) => {
    const dialog = byId("key-dialog");
    const input = byId("key");
    input.value = "";
    byId("key-refused").hidden = !wasRefused;
    byId("key-cancel").onclick = () => dialog.close();
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      dialog.close(input.value.trim());
    };
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue || null), { once: true });
    dialog.showModal();
    input.focus();
  });
}

/** Puts text on the clipboard and says so on the button. */
export async function copy(words, button) {
  // navigator.clipboard exists for secure origins only; a server at home may not be one.
  if (navigator.clipboard) await navigator.clipboard.writeText(words);
  else copyBySelection(words);
  const use = button.querySelector("use");
  use.setAttribute("href", "#icon-check");
  announce(text("copied"));
  setTimeout(() => use.setAttribute("href", "#icon-copy"), 1500);
}

function copyBySelection(words) {
  const area = element("textarea", { class: "unseen" });
  area.value = words;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
