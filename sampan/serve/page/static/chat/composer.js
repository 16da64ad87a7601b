// Where a message is written and sent, and an answer stopped.

import { byId } from "../lib/dom.js";
import { fitHeight, isSendKey } from "./messages.js";
import { onLanguage, text } from "../lib/strings.js";

/** `actions`: {send(content), stop()}. */
export class Composer {
  #actions;
  #area = byId("message");
  #button = byId("send");
  #isRunning = false;

  constructor(actions) {
    this.#actions = actions;
    this.#area.addEventListener("input", () => this.#changed());
    this.#area.addEventListener("keydown", (event) => {
      if (!isSendKey(event)) return;
      event.preventDefault();
      this.#send();
    });
    this.#button.addEventListener("click", () => {
      if (this.#isRunning) this.#actions.stop();
      else this.#send();
      this.focus();
    });
    onLanguage(() => this.setRunning(this.#isRunning));
    this.setRunning(false);
  }

  /** Not where that would bring up a keyboard on the screen. */
  focus() {
    if (!matchMedia("(pointer: coarse)").matches) this.#area.focus();
  }

  /** Puts a text in the field, for the person to send. */
  fill(words) {
    this.#area.value = words;
    this.#changed();
    this.focus();
  }

  /** While the chat is answered, the button stops rather than sends. */
  setRunning(isRunning) {
    this.#isRunning = isRunning;
    const name = isRunning ? "stop" : "send";
    this.#button.title = text(name);
    this.#button.setAttribute("aria-label", text(name));
    this.#button.querySelector("use").setAttribute("href", `#icon-${name}`);
    this.#button.classList.toggle("stops", isRunning);
    byId("waterline").classList.toggle("moving", isRunning);
    this.#changed();
  }

  #changed() {
    this.#button.disabled = !this.#isRunning && this.#area.value.trim() === "";
    fitHeight(this.#area);
  }

  #send() {
    const content = this.#area.value.trim();
    if (this.#isRunning || content === "") return;
    this.#area.value = "";
    this.#changed();
    this.#actions.send(content);
  }
}
