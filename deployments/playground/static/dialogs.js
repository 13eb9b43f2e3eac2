// Dialogs with a form: they tell what went wrong and stay, and give the focus back when they close.

import { element } from "./dom.js";

let number = 0;

/** A labelled field. options: [[value, text], ...] makes a choice of it. */
function field({ name, label, type = "text", value = "", options, hint, wide = false, ...attributes }) {
  const box = element("div", wide ? "wide" : "");
  const node = box.appendChild(element("label", type === "checkbox" ? "check" : ""));
  const control = options ? element("select") : element("input", type === "password" ? "secret" : "");
  if (options) control.append(...options.map(([choice, text]) => new Option(text, choice)));
  else control.type = type;
  control.name = name;
  if (type === "checkbox") control.checked = value === true;
  else control.value = value ?? "";
  control.autocomplete = "off";
  Object.assign(control, attributes);
  const text = element("span", "", label);
  node.append(...(type === "checkbox" ? [control, text] : [text, control]));
  if (hint) {
    const note = box.appendChild(element("p", "note", hint));
    note.id = `hint-${(number += 1)}`;
    control.setAttribute("aria-describedby", note.id);
  }
  return box;
}

function values(form) {
  const found = {};
  for (const control of form.elements)
    if (control.name) found[control.name] = control.type === "checkbox" ? control.checked : control.value.trim();
  return found;
}

/**
 * Asks, and resolves to what `onSubmit(values)` gives; to null if it was closed. What `onSubmit` throws is shown, and
 * the dialog stays. extra: nodes beside the buttons.
 */
export function ask({ title, note, fields = [], action, danger = false, extra = [], onSubmit }) {
  const dialog = element("dialog");
  const heading = dialog.appendChild(element("h2", "", title));
  heading.id = `dialog-${(number += 1)}`;
  dialog.setAttribute("aria-labelledby", heading.id);
  if (note) dialog.appendChild(element("p", "note", note));
  const form = dialog.appendChild(element("form"));
  const box = form.appendChild(element("div", "fields"));
  box.append(...fields.map(field));
  const problem = form.appendChild(element("p", "notice"));
  problem.setAttribute("role", "alert");
  problem.hidden = true;
  const buttons = form.appendChild(element("div", "buttons"));
  const cancel = element("button", "", "Cancel");
  cancel.type = "button";
  const submit = element("button", danger ? "danger" : "primary", action);
  buttons.append(...extra, cancel, submit);

  return new Promise((resolve) => {
    let result = null;
    cancel.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => (dialog.remove(), resolve(result)));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      submit.disabled = true;
      problem.hidden = true;
      try {
        result = (await onSubmit(values(form))) ?? true;
        dialog.close();
      } catch (error) {
        problem.textContent = error.message;
        problem.hidden = false;
        form.querySelector("input, select, button").focus();
      } finally {
        submit.disabled = false;
      }
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Shows a secret once: to copy it, and never again. */
export function showOnce({ title, label, value, note }) {
  const dialog = element("dialog");
  const heading = dialog.appendChild(element("h2", "", title));
  heading.id = `dialog-${(number += 1)}`;
  dialog.setAttribute("aria-labelledby", heading.id);
  const warning = dialog.appendChild(element("p", "note", note));
  warning.id = `${heading.id}-note`;
  const shown = dialog.appendChild(element("input", "secret"));
  Object.assign(shown, { type: "text", value, readOnly: true });
  shown.setAttribute("aria-label", label);
  shown.setAttribute("aria-describedby", warning.id);
  const said = dialog.appendChild(element("p", "note"));
  said.setAttribute("role", "status");
  const buttons = dialog.appendChild(element("div", "buttons"));
  const copy = buttons.appendChild(element("button", "primary", "Copy"));
  const done = buttons.appendChild(element("button", "", "I have it"));
  copy.addEventListener("click", async () => {
    const copied = await (navigator.clipboard?.writeText(value).then(() => true, () => false) ?? false);
    said.textContent = copied ? "Copied." : "This browser does not let pages copy: the key is selected, copy it by hand.";
    if (!copied) shown.select();
  });
  done.addEventListener("click", () => dialog.close());
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      shown.value = "";
      dialog.remove();
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
    shown.select();
  });
}
