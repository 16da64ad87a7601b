// Which model answers.

import { request } from "../server/api.js";
import { byId, element } from "../lib/dom.js";
import { read, write } from "../lib/storage.js";
import { text } from "../lib/strings.js";

const CHOSEN = "sampan.model";

/** The list of models and the choice among them. */
export class Models {
  #names = [];
  #select = byId("model");

  constructor() {
    this.#select.addEventListener("change", () => write(CHOSEN, this.#select.value));
  }

  /** The chosen model's name; "" when there is none. */
  get name() {
    return this.#select.value;
  }

  /** Asks the server; throws ApiError. */
  async load() {
    const response = await request("/v1/models");
    this.#names = (await response.json()).data.map(({ id }) => id);
    this.show();
  }

  show() {
    const wanted = this.name || read(CHOSEN, "");
    const options = this.#names.map((name) => element("option", { value: name }, shortName(name)));
    this.#select.replaceChildren(
      ...(options.length ? options : [element("option", { value: "" }, text("no-model"))]),
    );
    if (this.#names.includes(wanted)) this.#select.value = wanted;
    this.#select.disabled = this.#names.length === 0;
  }
}

/** Without the folders of a path. */
export function shortName(name) {
  return name.split("/").filter(Boolean).at(-1) ?? name;
}
