// Which model answers.

import { request } from "./api.js";
import { byId, element } from "./dom.js";
import { read, write } from "./storage.js";
import { text } from "./strings.js";

const CHOSEN = "sampan.model";

/** The list of models and the choice among them. "change" is dispatched when either has changed. */
export class Models extends EventTarget {
  #models = [];
  #select = byId("model");

  constructor() {
    super();
    this.#select.addEventListener("change", () => {
      write(CHOSEN, this.#select.value);
      this.dispatchEvent(new Event("change"));
    });
  }

  /** The chosen model's name; "" when there is none. */
  get name() {
    return this.#select.value;
  }

  /** True when the chosen model is a mixture of experts, or may be one for all that is known. */
  get isMixture() {
    const model = this.#models.find(({ id }) => id === this.name);
    return model?.experts_per_token !== null && model?.experts_per_token !== undefined;
  }

  /** Asks the server; throws ApiError. */
  async load() {
    const response = await request("/v1/models");
    this.#models = (await response.json()).data;
    this.show();
    this.dispatchEvent(new Event("change"));
  }

  show() {
    const wanted = this.name || read(CHOSEN, "");
    const names = this.#models.map(({ id }) => id);
    const options = names.map((name) => element("option", { value: name }, shortName(name)));
    this.#select.replaceChildren(...(options.length ? options : [element("option", { value: "" }, text("no-model"))]));
    if (names.includes(wanted)) this.#select.value = wanted;
    this.#select.disabled = names.length === 0;
  }
}

/** Without the folders of a path. */
export function shortName(name) {
  return name.split("/").filter(Boolean).at(-1) ?? name;
}
