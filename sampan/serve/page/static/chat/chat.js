// Asks the server and writes its answers into chats. Knows nothing of how they are shown.

import { apiError, ApiError, request } from "../server/api.js";
import { Meter } from "./meter.js";
import { readEvents } from "../server/sse.js";

const PATH = "/v1/chat/completions";

// How often a busy server is asked again before a person has to.
const MOST_TRIES = 5;
const LONGEST_WAIT_S = 120;
const SAVE_EVERY_MS = 2000;

/**
 * Runs answers, several at once if they belong to different chats. An answer is a message
 * {role: "assistant", model, state, content, reasoning, tools, end, figures, error}:
 *
 * state: "waiting", "busy" (until `retryAt`, ms since 1970), "writing", "done", "stopped", "lost" (the
 * connection broke; what arrived is kept) or "failed" (`error` is {message, parameter, status}).
 * tools: calls {name, arguments}. figures: as meter.js counts them.
 *
 * Events: "update" {chat, answer} as an answer grows, "end" {chat, answer}, and "start" {chat, answer}.
 */
export class Chat extends EventTarget {
  #conversations;
  #choices;
  #running = new Map(); // {chat, controller, wake} by chat id; `wake` ends a wait for a busy server

  /** `choices()` gives {model, parameters} as they are chosen now. */
  constructor(conversations, choices) {
    super();
    this.#conversations = conversations;
    this.#choices = choices;
    addEventListener("pagehide", () => {
      for (const { chat } of this.#running.values()) conversations.save(chat);
    });
  }

  isRunning(chat) {
    return this.#running.has(chat.id);
  }

  send(chat, content) {
    chat.messages.push({ role: "user", content });
    this.#answer(chat);
  }

  /** Answers a chat's last question again, in place of what came. */
  retry(chat) {
    while (chat.messages.at(-1)?.role === "assistant") chat.messages.pop();
    this.#answer(chat);
  }

  /** Puts another question in a message's place; what followed it is gone. */
  edit(chat, index, content) {
    chat.messages.length = index;
    this.send(chat, content);
  }

  stop(chat) {
    this.#running.get(chat.id)?.controller.abort();
  }

  /** Asks a busy server now rather than when it said. */
  tryNow(chat) {
    this.#running.get(chat.id)?.wake();
  }

  async #answer(chat) {
    const { model, parameters } = this.#choices();
    const answer = {
      role: "assistant",
      model,
      state: "waiting",
      content: "",
      reasoning: "",
      tools: [],
      end: null,
      figures: null,
      error: null,
      retryAt: null,
    };
    const body = {
      ...(model ? { model } : {}), // without one, the server answers with its first
      messages: messagesOf(chat),
      stream: true,
      stream_options: { include_usage: true },
      ...parameters,
    };
    chat.messages.push(answer);
    const run = { chat, controller: new AbortController(), wake: () => {} };
    this.#running.set(chat.id, run);
    this.#conversations.save(chat);
    this.#say("start", chat, answer);
    try {
      await this.#patiently(run, answer, body);
    } catch (error) {
      fail(answer, error, run.controller.signal.aborted);
    }
    this.#running.delete(chat.id);
    if (this.#conversations.get(chat.id) === chat) this.#conversations.save(chat);
    this.#say("end", chat, answer);
  }

  async #patiently(run, answer, body) {
    const { chat, controller } = run;
    for (let tries = 1; ; tries += 1) {
      try {
        answer.state = "waiting";
        this.#say("update", chat, answer);
        return await this.#stream(chat, answer, body, controller.signal);
      } catch (error) {
        const busy = error.status === 429 || error.status === 503;
        if (!busy || error.retryAfter === null || tries === MOST_TRIES || answer.content) throw error;
        const seconds = Math.min(error.retryAfter, LONGEST_WAIT_S);
        answer.state = "busy";
        answer.retryAt = Date.now() + seconds * 1000;
        this.#say("update", chat, answer);
        await sleep(seconds * 1000, run);
      }
    }
  }

  async #stream(chat, answer, body, signal) {
    const meter = new Meter();
    const response = await request(PATH, { method: "POST", body, signal });
    let saved = performance.now();
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") break;
      const event = JSON.parse(data);
      if (event.error) throw apiError(event.error, { status: response.status });
      answer.model ||= event.model;
      if (event.usage) meter.usage(event.usage);
      if (event.choices?.[0] && take(answer, event.choices[0])) meter.piece();
      answer.figures = meter.figures();
      this.#say("update", chat, answer);
      if (performance.now() - saved > SAVE_EVERY_MS) {
        this.#conversations.save(chat);
        saved = performance.now();
      }
    }
    if (answer.end === null) throw new ApiError("the stream ended before the answer did");
    answer.state = "done";
  }

  #say(type, chat, answer) {
    this.dispatchEvent(new CustomEvent(type, { detail: { chat, answer } }));
  }
}

/** A chat as the API wants it: questions whose answer failed are joined with the next one. */
function messagesOf(chat) {
  const messages = chat.system.trim() ? [{ role: "system", content: chat.system }] : [];
  for (const { role, content } of chat.messages) {
    const last = messages.at(-1);
    if (content === "") continue;
    if (role === "user" && last?.role === "user") last.content += `\n\n${content}`;
    else messages.push({ role, content });
  }
  return messages;
}

/** Adds a piece of the stream to an answer; true when it held something of the model's. */
function take(answer, { delta = {}, finish_reason: end }) {
  if (end) answer.end = end;
  let any = false;
  if (delta.content) {
    answer.content += delta.content;
    any = true;
  }
  if (delta.reasoning_content) {
    answer.reasoning += delta.reasoning_content;
    any = true;
  }
  for (const call of delta.tool_calls ?? []) {
    const tool = (answer.tools[call.index] ??= { name: "", arguments: "" });
    tool.name += call.function?.name ?? "";
    tool.arguments += call.function?.arguments ?? "";
    any = true;
  }
  if (any) answer.state = "writing";
  return any;
}

function fail(answer, error, wasStopped) {
  const arrived = answer.content || answer.reasoning || answer.tools.length > 0;
  if (wasStopped) {
    answer.state = "stopped";
  } else if (arrived && !(error instanceof ApiError && error.status > 0)) {
    answer.state = "lost";
  } else {
    answer.state = "failed";
    const { message, parameter = null, status = 0 } = error;
    answer.error = { message, parameter, status };
  }
}

/** Sleeps until the time is over or `run.wake` is called; an abort throws. */
function sleep(milliseconds, run) {
  const { signal } = run.controller;
  return new Promise((resolve, reject) => {
    run.wake = resolve;
    const timer = setTimeout(resolve, milliseconds);
    const leave = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    signal.addEventListener("abort", leave, { once: true });
  });
}
