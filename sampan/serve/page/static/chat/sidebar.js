// The list of chats, by day.

import { byId, element, iconButton } from "../lib/dom.js";
import { text } from "../lib/strings.js";

const DAY_MS = 24 * 60 * 60 * 1000;

/** Shows the chats of `conversations`; `actions`: {open(id), remove(id), isRunning(id)}. */
export class Sidebar {
  #conversations;
  #actions;
  #current = null;

  constructor(conversations, actions) {
    this.#conversations = conversations;
    this.#actions = actions;
    conversations.addEventListener("change", () => this.show());
    byId("menu-button").addEventListener("click", () => this.#setDrawer(true));
    byId("scrim").addEventListener("click", () => this.close());
  }

  /** Marks a chat as the one on the screen. */
  select(id) {
    this.#current = id;
    this.show();
  }

  show() {
    const focused = document.activeElement?.dataset?.chat;
    const groups = new Map();
    for (const entry of this.#conversations.list()) {
      const day = dayOf(entry.changed);
      if (!groups.has(day)) groups.set(day, []);
      groups.get(day).push(this.#entry(entry));
    }
    const parts = [...groups].flatMap(([day, entries]) => [
      element("h2", {}, text(day)),
      element("ul", {}, ...entries),
    ]);
    byId("chats").replaceChildren(
      ...(parts.length ? parts : [element("p", { class: "hint" }, text("no-chats"))]),
    );
    if (focused)
      byId("chats")
        .querySelector(`[data-chat="${CSS.escape(focused)}"]`)
        ?.focus();
  }

  /** Closes the drawer that the list is in on small screens; false when it was not open. */
  close() {
    if (!document.body.classList.contains("drawer-open")) return false;
    this.#setDrawer(false);
    byId("menu-button").focus();
    return true;
  }

  #setDrawer(isOpen) {
    document.body.classList.toggle("drawer-open", isOpen);
    byId("scrim").hidden = !isOpen;
    byId("menu-button").setAttribute("aria-expanded", String(isOpen));
    if (isOpen) byId("new-chat").focus();
  }

  #entry({ id, title }) {
    const isRunning = this.#actions.isRunning(id);
    const open = element(
      "button",
      {
        "type": "button",
        "class": isRunning ? "chat running" : "chat",
        title,
        "data-chat": id,
        "aria-current": id === this.#current ? "page" : null,
        "on": { click: () => this.#actions.open(id) },
      },
      element("span", {}, title || text("untitled")),
      isRunning ? element("span", { class: "unseen" }, text("is-answering")) : null,
    );
    const remove = iconButton("trash", text("delete-chat", { title }), () => this.#remove(id));
    return element("li", {}, open, remove);
  }

  /** The focus goes to the chat that takes the deleted one's place. */
  #remove(id) {
    const ids = this.#conversations.list().map((entry) => entry.id);
    const next = ids[ids.indexOf(id) + 1] ?? ids[ids.indexOf(id) - 1];
    this.#actions.remove(id);
    (byId("chats").querySelector(`[data-chat="${CSS.escape(next ?? "")}"]`) ?? byId("new-chat")).focus();
  }
}

function dayOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "today";
  return time >= midnight - DAY_MS ? "yesterday" : "earlier";
}
