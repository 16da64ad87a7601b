// The settings: the chat's system prompt, the parameters, and what this browser keeps.

import { forgetKey, hasKey } from "../server/api.js";
import { byId, element } from "../lib/dom.js";
import { confirmed, notify } from "../lib/notice.js";
import { parameterForm, resetParameters } from "./parameters.js";
import { text } from "../lib/strings.js";

/** Shows the settings; `actions`: {chat(), changed(), deleteAll()}. */
export class Settings {
  #actions;
  #root = byId("settings");
  #system;

  constructor(actions) {
    this.#actions = actions;
  }

  /** Makes the form anew: in another language, or with a key to forget. */
  show() {
    this.#system = element("textarea", { "id": "system", "rows": "4", "aria-describedby": "system-hint" });
    this.#system.addEventListener("input", () => {
      this.#actions.chat().system = this.#system.value;
      this.#actions.changed();
    });
    this.showChat();
    const reset = element(
      "button",
      { type: "button", class: "quiet-button", on: { click: resetParameters } },
      text("reset"),
    );
    this.#root.replaceChildren(
      element(
        "section",
        {},
        element("h3", {}, element("label", { for: "system" }, text("system-prompt"))),
        this.#system,
        element("p", { class: "hint", id: "system-hint" }, text("system-hint")),
      ),
      element(
        "section",
        {},
        element("div", { class: "section-head" }, element("h3", {}, text("parameters")), reset),
        parameterForm(),
        element("p", { class: "hint" }, text("parameters-hint")),
      ),
      element(
        "section",
        { class: "stored" },
        element("h3", {}, text("data")),
        this.#deleteButton(),
        this.#keyButton(),
      ),
    );
  }

  /** Shows what belongs to the chat on the screen. */
  showChat() {
    this.#system.value = this.#actions.chat().system;
  }

  #deleteButton() {
    const ask = async () => {
      if (await confirmed(text("delete-all-question"), text("delete"))) this.#actions.deleteAll();
    };
    return element(
      "button",
      { type: "button", class: "quiet-button danger", on: { click: ask } },
      text("delete-all"),
    );
  }

  #keyButton() {
    const forget = () => {
      forgetKey();
      notify(text("key-forgotten"));
      this.show();
    };
    return hasKey()
      ? element(
          "button",
          { type: "button", class: "quiet-button", on: { click: forget } },
          text("forget-key"),
        )
      : null;
  }
}
