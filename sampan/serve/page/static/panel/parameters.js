// The parameters that a request can set, and the fields that set them. The server judges their values.

import { element, icon } from "../lib/dom.js";
import { read, write } from "../lib/storage.js";
import { text } from "../lib/strings.js";

const KEPT = "sampan.parameters";

const PARAMETERS = [
  { name: "temperature", step: 0.1 },
  { name: "top_p", step: 0.05 },
  { name: "min_p", step: 0.01 },
  { name: "top_k", step: 1 },
  { name: "max_completion_tokens", step: 64 },
  { name: "seed", step: 1 },
];
const MIXTURE_PARAMETERS = [
  { name: "experts_per_token", step: 1 },
  { name: "expert_mass", step: 0.05 },
];

let chosen = validated(read(KEPT, {}));
const fields = new Map(); // {input, problem} by name

/** The parameters that are set, as a request names them. */
export function parameters() {
  return { ...chosen };
}

/** The form, made anew. */
export function parameterForm() {
  fields.clear();
  const isSet = MIXTURE_PARAMETERS.some(({ name }) => name in chosen);
  const summary = element("summary", {}, icon("chevron"), text("mixture"));
  const mixture = element("details", { open: isSet }, summary, ...MIXTURE_PARAMETERS.map(field));
  return element("div", { class: "parameters" }, ...PARAMETERS.map(field), mixture);
}

/** Takes back every choice. */
export function resetParameters() {
  chosen = {};
  write(KEPT, chosen);
  for (const { input, problem } of fields.values()) {
    input.value = "";
    tell(input, problem, "");
  }
}

/** Shows the server's words about a parameter at its field and goes there; false when it has none. */
export function showProblem(name, message) {
  const place = fields.get(name === "max_tokens" ? "max_completion_tokens" : name);
  if (!place) return false;
  tell(place.input, place.problem, message);
  const folded = place.input.closest("details");
  if (folded) folded.open = true;
  place.input.focus();
  return true;
}

function field({ name, step }) {
  const problem = element("p", { class: "problem", id: `${name}-problem`, hidden: true });
  const input = element("input", {
    "id": name,
    "type": "number",
    "step": "any",
    "inputmode": "decimal",
    "placeholder": text("default"),
    "aria-describedby": `${name}-help ${name}-problem`,
  });
  input.value = chosen[name] ?? "";
  input.addEventListener("input", () => {
    tell(input, problem, input.validity.badInput ? text("not-a-number") : "");
    if (input.value === "") delete chosen[name];
    else chosen[name] = Number(input.value);
    write(KEPT, chosen);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
    event.preventDefault();
    const value = Math.max(Number(input.value) + (event.key === "ArrowUp" ? step : -step), 0);
    input.value = Number(value.toFixed(4));
    input.dispatchEvent(new Event("input"));
  });
  fields.set(name, { input, problem });
  const label = element("label", { for: name }, text(name));
  const help = element("small", { id: `${name}-help` }, text(`${name}-help`));
  return element("div", { class: "parameter" }, element("div", {}, label, help), input, problem);
}

function tell(input, problem, message) {
  problem.textContent = message;
  problem.hidden = message === "";
  if (message) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

function validated(kept) {
  const known = [...PARAMETERS, ...MIXTURE_PARAMETERS].map(({ name }) => name);
  return Object.fromEntries(
    known.filter((name) => Number.isFinite(kept?.[name])).map((name) => [name, kept[name]]),
  );
}
