// The form of parameters: a control for each, and a hint with what the API itself declares of its field.

import { element } from "./dom.js";
import { FIELDS } from "./request-fields.js"; // made by the server

/** A slider covers the values that people try; the box beside it takes all that the API does. */
const slider = (name, label, { value, step, from = FIELDS[name].least, to = FIELDS[name].most, ...rest }) => ({
  name, label, kind: "slider", value, step, from, to, least: FIELDS[name].least, most: FIELDS[name].most, ...rest,
});

/**
 * By group. name: in the form, and of the API's field unless `field` names another. says: in words of every day, before
 * the API's own; instead: in place of them. task: only there.
 */
const CONTROLS = {
  writing: [
    slider("temperature", "Temperature", { value: 0.2, step: 0.05, says: "How daring it is." }),
    slider("max_tokens", "Maximum length", {
      value: 64, step: 1, from: 1, to: 512, least: 1, task: "complete", says: "In tokens, of about three characters.",
    }),
    slider("n", "Choices", { value: 1, step: 1, to: 8, most: 8, task: "complete", says: "How many you want to choose from." }),
    {
      name: "stop", label: "Stop at", kind: "lines", placeholder: "\\n\\n is an empty line",
      says: "One a line; \\n is a line end, \\t a tab.",
    },
    {
      name: "logprobs", label: "Colour tokens by probability", kind: "switch", checked: true, task: "complete",
      instead: "Shows where the model was unsure, and what else it could have written.",
    },
  ],
  ending: [
    {
      name: "completion_mode", label: "Ends with", kind: "select",
      options: { auto: "automatic", line: "the line", block: "the block", raw: "the model’s end" },
    },
    {
      name: "min_logprob", label: "Least certainty", kind: "number", step: 0.1, placeholder: "any",
      says: "A natural logarithm: −1 is a token that had a chance of 37 %.",
    },
  ],
  repeating: [
    slider("frequency_penalty", "Frequency penalty", { value: 0, step: 0.1 }),
    slider("presence_penalty", "Presence penalty", { value: 0, step: 0.1 }),
    slider("repetition_penalty", "Repetition penalty", { value: 1, step: 0.05, from: 1, to: 2 }),
  ],
  drawing: [
    slider("top_p", "Top P", { value: 0.95, step: 0.05 }),
    slider("top_k", "Top K", { value: 0, step: 1, from: 0, to: 100 }),
    slider("min_p", "Min P", { value: 0, step: 0.01 }),
    { name: "seed", label: "Seed", kind: "number", step: 1, least: 0, placeholder: "random" },
  ],
  context: [
    {
      name: "repository", label: "Repository", kind: "text", placeholder: "acme/shop", task: "complete",
      says: "Its name tells the model what kind of code to expect.",
    },
    { name: "path", field: "filename", label: "This file", kind: "text", placeholder: "src/cart.py" },
    {
      name: "fim_mode", label: "Prompt order", kind: "select", options: { auto: "automatic", psm: "PSM", spm: "SPM" },
      task: "complete",
    },
    {
      name: "truncate", field: "truncate_prompt_tokens", label: "Cut what does not fit", kind: "switch",
      task: "complete",
      instead: "A prompt that is too long loses what is farthest from the cursor, where it would be refused.",
    },
  ],
};

/** Fills the groups of the page. */
export function buildParameters(form) {
  for (const [group, controls] of Object.entries(CONTROLS))
    form.querySelector(`[data-group="${group}"]`).prepend(...controls.map(row));
  form.addEventListener("input", ({ target }) => match(target));
  // What is wrong must be seen, or the browser cannot point at it.
  form.addEventListener("invalid", ({ target }) => target.closest("details")?.setAttribute("open", ""), true);
  form.addEventListener("keydown", ({ key, target }) => key === "Escape" && target.closest(".parameter")?.classList.add("told"));
  form.addEventListener("focusout", ({ target }) => target.closest(".parameter")?.classList.remove("told"));
}

/** Sliders stand where the numbers say, and the other way round. */
function match(target) {
  const other = target.closest(".parameter")?.querySelector(target.type === "range" ? "[type=number]" : "[type=range]");
  if (other) other.value = target.value;
}

/** After values were set by a script. */
export const matchSliders = (form) => form.querySelectorAll(".parameter > [type=number]").forEach(match);

function row(control) {
  const { name, label, kind, task } = control;
  const node = element("div", `parameter ${kind}`);
  if (task) node.dataset.for = task;
  const title = element("label", "name", label);
  title.htmlFor = `parameter-${name}`;
  const box = MAKERS[kind](control);
  Object.assign(box, { id: title.htmlFor, name, placeholder: control.placeholder ?? "" });
  const hint = tip(control);
  hint.id = `tip-${name}`;
  box.setAttribute("aria-describedby", hint.id);
  node.append(...(kind === "switch" ? [box, title] : [title, box]));
  if (kind === "slider") node.append(track(control));
  node.append(hint);
  return node;
}

const MAKERS = {
  slider: (control) => number({ ...control, required: true }),
  number: (control) => number(control),
  text: () => input("text"),
  switch: ({ checked = false }) => Object.assign(input("checkbox"), { checked }),
  select({ options }) {
    const node = element("select");
    node.append(...Object.entries(options).map(([value, text]) => new Option(text, value)));
    return node;
  },
  lines: () => Object.assign(element("textarea"), { rows: 2, spellcheck: false }),
};

const input = (type) => Object.assign(element("input"), { type });

const number = ({ name, field = name, least = FIELDS[field].least, most = FIELDS[field].most, step, value, required }) =>
  Object.assign(input("number"), { min: least, max: most, step: arrows(step), value: value ?? "", required: Boolean(required) });

/** Of a box: finer than its slider's. */
const arrows = (step) => (Number.isInteger(step) ? step : 0.01);

function track({ label, from, to, step, value }) {
  const node = Object.assign(input("range"), { min: from, max: to, step, value });
  node.setAttribute("aria-label", `${label}, as a slider`);
  return node;
}

function tip({ name, field = name, says = "", instead }) {
  const node = element("span", "tip");
  node.setAttribute("role", "tooltip");
  const declared = FIELDS[field].description.replaceAll("`", "");
  node.append(instead ?? `${says} ${declared}`.trim(), " ", element("code", "", field));
  return node;
}
