// The panel at the side: settings or the live view, one at a time.

import { byId } from "../lib/dom.js";
import { read, write } from "../lib/storage.js";
import { onLanguage, text } from "../lib/strings.js";

const OPEN = "sampan.panel";
const TITLES = { settings: "settings", live: "live-title" };
// Where the panel covers the chat, it is not opened on its own.
const COVERS = matchMedia("(max-width: 1100px)");

export class Panel {
  #open = null;
  #onChange;
  #buttons = { settings: byId("settings-button"), live: byId("live-button") };
  #views = { settings: byId("settings"), live: byId("live-view") };

  /** `onChange(name)` is called with "settings", "live" or null. */
  constructor(onChange) {
    this.#onChange = onChange;
    for (const [name, button] of Object.entries(this.#buttons)) {
      button.addEventListener("click", () => this.set(this.#open === name ? null : name));
    }
    byId("panel-close").addEventListener("click", () => this.close());
    onLanguage(() => this.#title());
    const kept = read(OPEN, null);
    if (Object.hasOwn(TITLES, kept) && !COVERS.matches) this.set(kept);
  }

  get open() {
    return this.#open;
  }

  get covers() {
    return COVERS.matches;
  }

  set(name) {
    this.#open = name;
    write(OPEN, name);
    byId("panel").hidden = name === null;
    for (const [key, button] of Object.entries(this.#buttons)) {
      button.setAttribute("aria-expanded", String(key === name));
      this.#views[key].hidden = key !== name;
    }
    this.#title();
    this.#onChange(name);
    if (name !== null && this.covers) byId("panel-close").focus();
  }

  /** False when it was not open. */
  close() {
    if (this.#open === null) return false;
    const button = this.#buttons[this.#open];
    this.set(null);
    button.focus();
    return true;
  }

  #title() {
    if (this.#open !== null) byId("panel-title").textContent = text(TITLES[this.#open]);
  }
}
