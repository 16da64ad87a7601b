// The chats kept in this browser: one entry each and a list of them, newest first, within fixed bounds.

import { read, remove, write } from "../lib/storage.js";

const LIST = "sampan.chats";
const ENTRY = "sampan.chat.";

export const MOST_CHATS = 100;
// Half of what browsers commonly allow a site.
export const MOST_CHARACTERS = 2_500_000;
const LONGEST_TITLE = 60;

/**
 * A chat is {id, title, changed, system, messages}; `changed` in milliseconds since 1970. A message is
 * {role: "user", content} or an answer as chat.js makes it. "change" is dispatched when the list has changed.
 */
export class Conversations extends EventTarget {
  #list = []; // {id, title, changed, characters}
  #open = new Map(); // chats that were read or made, by id
  #warned = false;

  constructor() {
    super();
    this.#list = validList(read(LIST, []));
    addEventListener("storage", (event) => {
      if (event.key !== LIST) return;
      this.#list = validList(read(LIST, []));
      this.#changed();
    });
  }

  list() {
    return this.#list;
  }

  create() {
    const id = newId();
    const chat = { id, title: "", changed: Date.now(), system: "", messages: [] };
    this.#open.set(id, chat);
    return chat;
  }

  /** The chat of this id, or null. */
  get(id) {
    if (!this.#open.has(id)) {
      const chat = read(ENTRY + id, null);
      if (!isChat(chat)) return null;
      chat.messages.forEach(endUnfinished);
      this.#open.set(id, chat);
    }
    return this.#open.get(id);
  }

  /** Keeps a chat that has messages; the oldest ones go when there are too many, or too little room. */
  save(chat) {
    if (chat.messages.length === 0) return;
    chat.changed = Date.now();
    this.restore(chat);
  }

  /** Keeps a chat as it was. */
  restore(chat) {
    this.#open.set(chat.id, chat);
    chat.title ||= titleOf(chat);
    const characters = JSON.stringify(chat).length;
    const { id, title, changed } = chat;
    const others = this.#list.filter((entry) => entry.id !== id);
    this.#list = [...others, { id, title, changed, characters }].sort((a, b) => b.changed - a.changed);
    let total = this.#list.reduce((sum, entry) => sum + entry.characters, 0);
    let dropped = false;
    while (this.#list.length > 1 && (this.#list.length > MOST_CHATS || total > MOST_CHARACTERS)) {
      total -= this.#dropOldest();
      dropped = true;
    }
    while (!write(ENTRY + id, chat) && this.#list.length > 1) {
      this.#dropOldest();
      dropped = true;
    }
    if (!write(LIST, this.#list)) this.#warn("storage-off");
    else if (dropped && total > MOST_CHARACTERS / 2) this.#warn("storage-full");
    this.#changed();
  }

  delete(id) {
    this.#list = this.#list.filter((entry) => entry.id !== id);
    this.#open.delete(id);
    remove(ENTRY + id);
    write(LIST, this.#list);
    this.#changed();
  }

  deleteAll() {
    for (const { id } of this.#list) remove(ENTRY + id);
    this.#open.clear();
    this.#list = [];
    remove(LIST);
    this.#changed();
  }

  #dropOldest() {
    const { id, characters } = this.#list.pop();
    this.#open.delete(id);
    remove(ENTRY + id);
    return characters;
  }

  #warn(key) {
    if (this.#warned) return;
    this.#warned = true;
    this.dispatchEvent(new CustomEvent("warning", { detail: key }));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

// Not randomUUID: browsers have it for secure origins only, and a server at home may not be one.
function newId() {
  return Array.from(crypto.getRandomValues(new Uint32Array(3)), (part) => part.toString(36)).join("");
}

function titleOf(chat) {
  return chat.messages[0].content.trim().split("\n", 1)[0].slice(0, LONGEST_TITLE);
}

/** An answer that was under way when the page was left is over. */
function endUnfinished(message) {
  if (["waiting", "busy", "writing"].includes(message.state))
    message.state = message.content ? "lost" : "stopped";
}

function validList(list) {
  return Array.isArray(list) ? list.filter((entry) => typeof entry?.id === "string") : [];
}

function isChat(chat) {
  return typeof chat?.id === "string" && Array.isArray(chat.messages) && typeof chat.system === "string";
}
