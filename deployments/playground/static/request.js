// From the page's form to request bodies.

import { matchSliders } from "./parameter_form.js";
import { FIELDS } from "./request-fields.js"; // made by the server

const form = document.getElementById("parameters");
const filesBox = document.getElementById("files");

/** "\n" and "\t" as people write them in one line of a form; "\\" is a backslash. */
const unescape = (text) => text.replace(/\\([nt\\])/g, (_, letter) => ({ n: "\n", t: "\t", "\\": "\\" })[letter]);

const number = (name) => {
  const { value } = form.elements[name];
  return value === "" || !Number.isFinite(Number(value)) ? undefined : Number(value);
};
/** What the form says in a field, where that is not what the API takes by itself. */
const unusual = (names) => Object.fromEntries(names.map((name) => [name, number(name)]).filter(([name, value]) => value !== FIELDS[name].default));
const DRAWN = ["top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"];
const text = (name) => form.elements[name].value.trim() || undefined;
const stops = () => {
  const lines = form.elements.stop.value.split("\n").filter(Boolean).map(unescape);
  return lines.length ? lines : undefined;
};

/** Undefined fields are left out: what is not said is the server's to decide. */
const compact = (body) => Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined));

export function files() {
  return [...filesBox.children]
    .map((box) => ({ path: box.querySelector("input").value.trim(), content: box.querySelector("textarea").value }))
    .filter((file) => file.path || file.content);
}

export function addFile({ path = "", content = "" } = {}) {
  const box = filesBox.appendChild(document.createElement("div"));
  box.className = "file";
  const head = box.appendChild(document.createElement("div"));
  head.className = "head";
  const name = head.appendChild(document.createElement("input"));
  Object.assign(name, { type: "text", value: path, placeholder: "src/tax.py" });
  name.setAttribute("aria-label", "Path of the file");
  const remove = head.appendChild(document.createElement("button"));
  Object.assign(remove, { type: "button", textContent: "Remove" });
  remove.addEventListener("click", () => {
    box.remove();
    form.dispatchEvent(new Event("input"));
    document.getElementById("add-file").focus();
  });
  const area = box.appendChild(document.createElement("textarea"));
  Object.assign(area, { rows: 4, value: content, spellcheck: false });
  area.setAttribute("aria-label", "Text of the file");
  return name;
}

function repository() {
  const found = compact({ name: text("repository"), path: text("path"), files: files().length ? files() : undefined });
  return Object.keys(found).length ? found : undefined;
}

/** Body of POST /v1/completions. typing: of a suggestion while somebody types, which never fails for its length. */
export function completionBody({ model, language, before, after, typing = false }) {
  const mode = form.elements.completion_mode.value;
  const order = form.elements.fim_mode.value;
  return compact({
    model,
    prompt: before,
    suffix: after,
    max_tokens: number("max_tokens"),
    temperature: number("temperature"),
    top_p: number("top_p"),
    n: typing || number("n") === 1 ? undefined : number("n"),
    ...unusual(DRAWN),
    seed: number("seed"),
    stop: stops(),
    logprobs: form.elements.logprobs.checked ? 5 : undefined,
    completion_mode: mode === "raw" ? undefined : mode,
    language: mode === "raw" ? undefined : language,
    min_logprob: number("min_logprob"),
    fim_mode: order === "auto" ? undefined : order,
    truncate_prompt_tokens: typing || form.elements.truncate.checked ? -1 : undefined,
    repository: repository(),
  });
}

/** Body of POST /v1/refactor. */
export function refactorBody({ model, language, code, instruction }) {
  return compact({
    model,
    code,
    instruction,
    language,
    filename: text("path"),
    temperature: number("temperature"),
    top_p: number("top_p"),
    ...unusual(DRAWN),
    seed: number("seed"),
    stop: stops(),
  });
}

/** The form as plain values, for a link; `restoreParameters` takes them back. */
export function parameters() {
  const values = {};
  for (const field of form.elements)
    if (field.name) values[field.name] = field.type === "checkbox" ? field.checked : field.value;
  return values;
}

export function restoreParameters(values) {
  for (const [name, value] of Object.entries(values)) {
    const field = form.elements.namedItem(name);
    if (!(field instanceof HTMLElement) || !field.name) continue;
    if (field.type === "checkbox") field.checked = value === true;
    else if (typeof value === "string") field.value = value;
  }
  matchSliders(form);
}

export const replaceFiles = (list) => {
  filesBox.replaceChildren();
  for (const file of list) addFile(file);
};
