// One message each on the screen: a question that can be edited, an answer that grows.

import { element, icon, iconButton } from "../lib/dom.js";
import { MarkdownView } from "../markdown/view.js";
import { copy } from "../lib/notice.js";
import { number, text } from "../lib/strings.js";

/** A question. `actions.edit(content)` sends another one in its place. */
export class QuestionView {
  #message;
  #actions;
  #body;
  #editButton;

  constructor(message, actions) {
    this.#message = message;
    this.#actions = actions;
    this.#body = element("div", { class: "question-text" }, message.content);
    this.#editButton = iconButton("edit", text("edit"), () => this.#edit());
    const copyButton = iconButton("copy", text("copy"), () => copy(message.content, copyButton));
    this.element = element(
      "li",
      { "class": "message question", "aria-label": text("you") },
      this.#body,
      element("div", { class: "tools" }, copyButton, this.#editButton),
    );
  }

  /** Whether its chat is being answered now: nothing in it can be changed then. */
  setBusy(isBusy) {
    this.#editButton.disabled = isBusy;
  }

  update() {}

  #edit() {
    const area = element("textarea", { "aria-label": text("edit-message") });
    area.value = this.#message.content;
    const leave = () => {
      form.replaceWith(this.#body);
      this.element.classList.remove("edited");
      this.#editButton.focus();
    };
    const send = () => {
      if (area.value.trim()) this.#actions.edit(area.value.trim());
    };
    area.addEventListener("input", () => fitHeight(area));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        leave();
      } else if (isSendKey(event)) {
        event.preventDefault();
        send();
      }
    });
    const form = element(
      "div",
      { class: "edit-form" },
      area,
      element(
        "div",
        { class: "dialog-buttons" },
        quietButton("cancel", leave),
        element("button", { type: "button", class: "main-button", on: { click: send } }, text("save-send")),
      ),
    );
    this.#body.replaceWith(form);
    this.element.classList.add("edited");
    fitHeight(area);
    area.focus();
  }
}

/** An answer. `actions`: {retry, tryNow, stop}. Call `update` after the answer has changed. */
export class AnswerView {
  #answer;
  #actions;
  #shown = { content: 0, reasoning: 0, tools: "", state: "" };
  #canRetry = false;
  #content;
  #reasoning;
  #reasoningWords = element("span");
  #tools = element("div", { class: "tool-calls" });
  #state = element("div", { class: "state" });
  #figures = element("div", { class: "figures" });
  #retryButton;
  #copyButton;

  constructor(answer, actions) {
    this.#answer = answer;
    this.#actions = actions;
    this.#content = growingMarkdown("markdown answer-text");
    this.#reasoning = growingMarkdown("markdown reasoning-text");
    this.#copyButton = iconButton("copy", text("copy"), () => copy(answer.content, this.#copyButton));
    this.#retryButton = iconButton("retry", text("retry"), () => actions.retry());
    const summary = element("summary", {}, icon("chevron"), this.#reasoningWords);
    this.element = element(
      "li",
      { class: "message answer" },
      element("details", { class: "reasoning", hidden: true }, summary, this.#reasoning.element),
      this.#content.element,
      this.#tools,
      this.#state,
      element("div", { class: "tools" }, this.#copyButton, this.#retryButton, this.#figures),
    );
  }

  /** Only a chat's last answer can be made again, and not while it is being made. */
  setBusy(isBusy, isLast) {
    this.#canRetry = isLast && !isBusy;
  }

  update() {
    const answer = this.#answer;
    this.#grow("content", this.#content);
    this.#grow("reasoning", this.#reasoning);
    const isWriting = answer.state === "waiting" || answer.state === "writing" || answer.state === "busy";
    if (!isWriting) {
      this.#content.finish();
      this.#reasoning.finish();
    }
    this.element.dataset.state = answer.state;
    this.element.setAttribute("aria-label", text("answer-by", { model: answer.model }));
    this.element.setAttribute("aria-busy", String(isWriting));
    this.element.querySelector(".reasoning").hidden = answer.reasoning === "";
    this.#reasoningWords.textContent = text(isWriting && !answer.content ? "thinking" : "thought");
    this.#copyButton.hidden = isWriting || answer.content === "";
    // Where something went wrong, the words about it have the button.
    const isWhole = answer.state === "done" || answer.state === "stopped";
    this.#retryButton.hidden = !isWhole || !this.#canRetry;
    this.#showTools();
    this.#showState();
    this.#showFigures();
  }

  #grow(part, view) {
    const whole = this.#answer[part];
    if (whole.length > this.#shown[part]) view.push(whole.slice(this.#shown[part]));
    this.#shown[part] = whole.length;
  }

  #showTools() {
    const signature = JSON.stringify(this.#answer.tools);
    if (signature === this.#shown.tools) return;
    this.#shown.tools = signature;
    this.#tools.replaceChildren(
      ...this.#answer.tools.map((tool) =>
        element(
          "figure",
          { class: "code" },
          element("figcaption", {}, text("tool-call", { name: tool.name })),
          element("pre", { tabindex: "0" }, element("code", {}, indented(tool.arguments))),
        ),
      ),
    );
  }

  #showState() {
    const { state, end, error, retryAt } = this.#answer;
    const signature = [state, end, retryAt, this.#canRetry].join();
    if (signature === this.#shown.state) return;
    this.#shown.state = signature;
    this.#state.className = "state";
    this.#state.replaceChildren();
    if (state === "waiting") {
      this.#state.append(
        element("span", { class: "waiting" }, text("waiting"), element("i"), element("i"), element("i")),
      );
    } else if (state === "busy") {
      this.#countDown(retryAt);
    } else if (state === "failed") {
      this.#problem(error.status === 0 ? text("unreachable") : error.message);
    } else if (state === "lost") {
      this.#problem(text("end-lost"));
    } else if (state === "stopped") {
      this.#note(text("end-stopped"));
    } else if (["length", "deadline", "cancelled"].includes(end)) {
      this.#note(text(`end-${end}`));
    }
  }

  #note(words) {
    this.#state.append(element("p", { class: "note" }, words));
  }

  #problem(words) {
    this.#state.classList.add("with-buttons", "with-problem");
    this.#state.append(element("p", { class: "problem" }, words));
    if (this.#canRetry) this.#state.append(quietButton("try-again", this.#actions.retry));
  }

  #countDown(until) {
    const words = element("p", { class: "note" });
    const tick = () => {
      const seconds = Math.max(Math.ceil((until - Date.now()) / 1000), 0);
      words.textContent = text("busy", { seconds });
      const { state, retryAt } = this.#answer;
      if (state === "busy" && retryAt === until && words.isConnected) setTimeout(tick, 250);
    };
    const { tryNow, stop } = this.#actions;
    this.#state.classList.add("with-buttons");
    this.#state.append(words, quietButton("try-now", tryNow), quietButton("give-up", stop));
    queueMicrotask(tick);
  }

  #showFigures() {
    const { figures } = this.#answer;
    if (!figures || figures.firstToken === null) return;
    const { firstToken, rate, tokens, prompt, cached } = figures;
    const parts = [
      rate === null ? null : text("rate", { rate: number(rate) }),
      text("first-token", { seconds: number(firstToken / 1000, 2) }),
      text("tokens", { count: number(tokens) }),
    ];
    if (prompt !== null && cached) {
      parts.push(text("prompt-cached", { count: number(prompt), cached: number(cached) }));
    } else if (prompt !== null) {
      parts.push(text("prompt-tokens", { count: number(prompt) }));
    }
    const shown = parts.filter((part) => part !== null);
    while (this.#figures.children.length > shown.length) this.#figures.lastChild.remove();
    while (this.#figures.children.length < shown.length) this.#figures.append(element("span"));
    for (const [index, part] of shown.entries()) this.#figures.children[index].textContent = part;
  }
}

/** Enter sends, except while an input method composes a word and with Shift. */
export function isSendKey(event) {
  // Safari ends the composition before the key event; its code then is 229.
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}

/** Makes a text area as high as its text; the style sheet has the limit. */
export function fitHeight(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

function quietButton(key, click) {
  return element("button", { type: "button", class: "quiet-button", on: { click } }, text(key));
}

function growingMarkdown(className) {
  const root = element("div", { class: className });
  const view = new MarkdownView(root, codeHeader);
  let finished = false;
  return {
    element: root,
    push: (words) => {
      view.push(words);
      view.flush();
    },
    finish: () => {
      if (!finished) view.finish();
      finished = true;
    },
  };
}

function codeHeader(language, code) {
  const button = iconButton("copy", text("copy-code"), () => copy(code(), button));
  return element("figcaption", {}, element("span", {}, language), button);
}

/** JSON as a person reads it; as it is where it is not whole. */
function indented(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}
