// What the engine does, second by second, while someone looks.

import { request } from "../server/api.js";
import { byId, element } from "../lib/dom.js";
import { Sparkline, Tank } from "./drawings.js";
import { shortName } from "../chat/models.js";
import { number, onLanguage, text } from "../lib/strings.js";

const PATH = "/v1/status";
const EVERY_MS = 1000;
const SECONDS = 60;
const GIB = 2 ** 30;
const MIB = 2 ** 20;

/** The live view; `setOpen(true)` while it is on the screen. */
export class LiveView {
  #root = byId("live-view");
  #isOpen = false;
  #timer = null;
  #samples = []; // {time, held, kept, running, waiting, written, read, cached}, the last three since the start
  #cards;
  #tank;
  #memory;
  #models;
  #problem;

  constructor() {
    document.addEventListener("visibilitychange", () => this.#schedule(0));
    onLanguage(() => this.#build());
    this.#build();
  }

  setOpen(isOpen) {
    this.#isOpen = isOpen;
    this.#samples = [];
    this.#schedule(0);
  }

  #schedule(delay) {
    clearTimeout(this.#timer);
    if (this.#isOpen && document.visibilityState === "visible") {
      this.#timer = setTimeout(() => this.#ask(), delay);
    }
  }

  async #ask() {
    try {
      const response = await request(PATH, { quiet: true });
      this.#show(await response.json());
    } catch {
      this.#problem.textContent = text("no-status");
      this.#problem.hidden = false;
    }
    this.#schedule(EVERY_MS);
  }

  #build() {
    this.#tank = new Tank();
    this.#memory = element("p", { class: "hint" });
    this.#problem = element("p", { class: "problem", hidden: true });
    this.#models = element("ul", { class: "resident" });
    this.#cards = Object.fromEntries(
      ["generated", "read", "running", "queue", "hits"].map((name) => [name, new Card(text(name))]),
    );
    const cards = Object.values(this.#cards).map((card) => card.element);
    this.#root.replaceChildren(
      this.#problem,
      element(
        "section",
        { class: "memory" },
        element("h3", {}, text("memory")),
        this.#tank.element,
        this.#memory,
      ),
      element("div", { class: "cards" }, ...cards),
      element("section", {}, element("h3", {}, text("weights")), this.#models),
    );
  }

  #show(status) {
    this.#samples = [...this.#samples, sample(status)].slice(-SECONDS - 1);
    const { held, kept } = this.#samples.at(-1);
    this.#tank.set(held, kept);
    const percent = (share) => number(share * 100, share > 0 && share < 0.1 ? 1 : 0);
    const isLoaded = status.models.some(({ engine }) => engine);
    const words = text("memory-text", { used: percent(held), cached: percent(kept) });
    this.#memory.textContent = isLoaded ? words : text("no-engine");
    this.#showRate("generated", "written");
    this.#showRate("read", "read");
    this.#showLevel("running");
    this.#showLevel("queue", "waiting");
    this.#showHits();
    this.#showModels(status);
    this.#problem.hidden = true;
  }

  #showRate(card, total) {
    const rates = changes(this.#samples, (before, after) => {
      return (Math.max(after[total] - before[total], 0) * 1000) / (after.time - before.time);
    });
    this.#cards[card].set(rates.length ? number(rates.at(-1)) : "–", text("per-second"), rates);
  }

  #showLevel(card, level = card) {
    const values = this.#samples.map((one) => one[level]);
    this.#cards[card].set(number(values.at(-1)), "", values, 4);
  }

  /** The share of the last minute; the line has it for each second that read a prompt. */
  #showHits() {
    let last = 0;
    const shares = changes(this.#samples, (before, after) => {
      const read = after.read + after.cached - before.read - before.cached;
      if (read > 0) last = (after.cached - before.cached) / read;
      return last;
    });
    const [first, now] = [this.#samples[0], this.#samples.at(-1)];
    const all = now.read + now.cached - first.read - first.cached;
    const shown = all > 0 ? number(((now.cached - first.cached) / all) * 100) : "–";
    this.#cards.hits.set(shown, "%", shares, 1);
  }

  #showModels({ models, memory: { used, budget } }) {
    const items = models.map(({ name, phase, memory, progress }) => {
      const loaded = progress?.total ? ` ${number((progress.done / progress.total) * 100)}%` : "";
      const state = text(`phase-${phase}`) + loaded;
      const words = memory ? `${bytes(memory.held)}, ${state}` : state;
      return element(
        "li",
        { "data-phase": phase },
        element("span", {}, shortName(name)),
        element("small", {}, words),
      );
    });
    const all = text("of-budget", { used: bytes(used), budget: bytes(budget) });
    this.#models.replaceChildren(...items, element("li", { class: "hint" }, all));
  }
}

/** A figure with its last minute. */
class Card {
  #value = element("strong");
  #unit = element("small");
  #spark = new Sparkline(SECONDS);

  constructor(title) {
    const value = element("p", {}, this.#value, this.#unit);
    this.element = element(
      "section",
      { class: "card" },
      element("h3", {}, title),
      value,
      this.#spark.element,
    );
  }

  set(value, unit, values, least = 1) {
    this.#value.textContent = value;
    this.#unit.textContent = unit;
    this.#spark.set(values, Math.max(least, ...values));
  }
}

/** The server's figures, of all models together. */
function sample({ models }) {
  const engines = models.map(({ engine }) => engine).filter((engine) => engine);
  const sum = (name) => engines.reduce((all, engine) => all + engine[name], 0);
  const pages = Math.max(sum("pages_total"), 1);
  return {
    time: performance.now(),
    held: sum("pages_used") / pages,
    kept: sum("pages_cached") / pages,
    running: sum("running"),
    waiting: sum("waiting"),
    written: sum("generated_tokens_total"),
    read: sum("prompt_tokens_total") - sum("cached_prompt_tokens_total"),
    cached: sum("cached_prompt_tokens_total"),
  };
}

function changes(samples, change) {
  return samples.slice(1).map((after, index) => change(samples[index], after));
}

function bytes(count) {
  return count >= GIB ? `${number(count / GIB, 1)} GiB` : `${number(count / MIB)} MiB`;
}
