// What became of a request that brought nothing, of whichever kind: one place, one look, and what can be done about it.

import { byId } from "./dom.js";

let kind = null;
let act = null;

/** tone: `plain` or `bad`. action: {label, act}, or null. A later notice replaces an earlier one. */
export function showNotice({ kind: which, tone = "bad", title, detail, action = null }) {
  kind = which;
  act = action?.act ?? null;
  byId("problem").dataset.tone = tone;
  byId("problem-title").textContent = title;
  byId("problem-detail").textContent = detail;
  byId("problem-action").textContent = action?.label ?? "";
  byId("problem-action").hidden = action === null;
  byId("problem").hidden = false;
}

/** Takes the notice away; with a kind, only one of that kind. */
export function clearNotice(which = kind) {
  if (which !== kind) return;
  kind = null;
  byId("problem").hidden = true;
}

byId("problem-action").addEventListener("click", () => act?.());
