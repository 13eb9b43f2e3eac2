// What was asked in this tab, the newest first: kept over a reload, forgotten when the tab is closed.

import { byId, element } from "./dom.js";
import { checked } from "./share.js";

const KEY = "starcoder-history";
const MOST = 40; // entries
const ROOM = 1_000_000; // characters of all of them

let entries = recall();

function recall() {
  try {
    const found = JSON.parse(sessionStorage.getItem(KEY));
    return found.map(({ at, texts, state }) => ({ at: Number(at), texts: texts.map(String), state: checked(state) }));
  } catch {
    return [];
  }
}

function keep() {
  entries.length = Math.min(entries.length, MOST);
  let packed = JSON.stringify(entries);
  while (packed.length > ROOM && entries.pop()) packed = JSON.stringify(entries);
  try { sessionStorage.setItem(KEY, packed); } catch { /* then it lasts as long as the page */ }
}

/** state: what the page held when it was asked; texts: what came, the best first. */
export function remember(state, texts) {
  entries.unshift({ at: Date.now(), state, texts });
  keep();
}

/** onRestore(state): somebody wants to go on from there. */
export function showPast(onRestore) {
  byId("no-past").hidden = entries.length > 0;
  byId("forget-past").hidden = entries.length === 0;
  byId("past").replaceChildren(...entries.map((entry) => line(entry, onRestore)));
}

export function forgetPast() {
  entries = [];
  try { sessionStorage.removeItem(KEY); } catch { /* nothing was kept */ }
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

function line({ at, state, texts }, onRestore) {
  const node = element("li", "moment");
  const head = node.appendChild(element("div", "row"));
  const name = state.task === "refactor" ? state.instruction : lastLine(state.code.slice(0, state.cursor));
  head.append(element("time", "note", clock.format(at)), element("code", "asked", name || "(an empty file)"), element("span", "spacer"));
  const back = head.appendChild(element("button", "", "Bring back"));
  back.type = "button";
  back.setAttribute("aria-label", `Bring back: ${name || "an empty file"}`);
  back.addEventListener("click", () => onRestore(state));
  const indentation = /(?<=^|\n)[ \t]*$/.exec(state.code.slice(0, state.cursor))?.[0] ?? "";
  node.append(...texts.map((text) => element("pre", "", state.task === "complete" ? indentation + text : text)));
  if (texts.length === 0) node.append(element("p", "note", "It gave no text."));
  return node;
}

const lastLine = (text) => text.trimEnd().split("\n").at(-1).trim();
