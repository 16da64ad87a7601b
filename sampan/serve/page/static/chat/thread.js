// The chat on the screen, and where it is scrolled to.

import { byId } from "../lib/dom.js";
import { AnswerView, QuestionView } from "./messages.js";

// Nearer to the end than this, in pixels, the thread follows what is written.
const NEAR_END = 48;

/** Shows one chat of `chats` (a Chat) at a time. `onEmpty(isEmpty)` is told whether it has messages. */
export class Thread {
  #chats;
  #onEmpty;
  #chat = null;
  #views = new Map(); // by message
  #dirty = new Set(); // views to update in the next frame
  #follows = true;
  #scroller = byId("thread");
  #list = byId("messages");
  #toEnd = byId("to-end");

  constructor(chats, onEmpty) {
    this.#chats = chats;
    this.#onEmpty = onEmpty;
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#toEnd.addEventListener("click", () => this.#goToEnd());
    new ResizeObserver(() => this.#follow()).observe(this.#list);
  }

  /** Shows a chat from its end, anew. */
  show(chat) {
    this.#chat = chat;
    this.#views.clear();
    this.#list.replaceChildren();
    this.#follows = true;
    this.sync();
  }

  /** Brings the views in line with the chat's messages; those of messages that stayed are kept. */
  sync() {
    const { messages } = this.#chat;
    const isBusy = this.#chats.isRunning(this.#chat);
    for (const message of this.#views.keys()) {
      if (!messages.includes(message)) this.#views.delete(message);
    }
    for (const [index, message] of messages.entries()) {
      if (!this.#views.has(message)) this.#views.set(message, this.#view(message, index));
      this.#views.get(message).setBusy(isBusy, index === messages.length - 1);
    }
    const elements = messages.map((message) => this.#views.get(message).element);
    for (const child of [...this.#list.children]) {
      if (!elements.includes(child)) child.remove();
    }
    for (const [index, element] of elements.entries()) {
      if (this.#list.children[index] !== element)
        this.#list.insertBefore(element, this.#list.children[index] ?? null);
    }
    for (const view of this.#views.values()) view.update();
    this.#onEmpty(messages.length === 0);
    this.#follow();
  }

  /** An answer has grown: shown with the next frame. */
  update(answer) {
    const view = this.#views.get(answer);
    if (!view) return;
    if (this.#dirty.size === 0) requestAnimationFrame(() => this.#draw());
    this.#dirty.add(view);
  }

  /** Follows the end again, as after sending. */
  follow() {
    this.#follows = true;
  }

  #draw() {
    for (const view of this.#dirty) view.update();
    this.#dirty.clear();
    this.#follow();
  }

  #view(message, index) {
    const chat = this.#chat;
    if (message.role === "user") {
      return new QuestionView(message, { edit: (content) => this.#chats.edit(chat, index, content) });
    }
    return new AnswerView(message, {
      retry: () => this.#chats.retry(chat),
      tryNow: () => this.#chats.tryNow(chat),
      stop: () => this.#chats.stop(chat),
    });
  }

  #follow() {
    if (this.#follows) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#showToEnd();
  }

  #goToEnd() {
    this.#follows = true;
    this.#scroller.scrollTo({ top: this.#scroller.scrollHeight });
    byId("message").focus();
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR_END;
    this.#showToEnd();
  }

  #showToEnd() {
    this.#toEnd.hidden = this.#follows || this.#chat.messages.length === 0;
  }
}
