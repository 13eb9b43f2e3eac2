// Tables with captions, which scroll by themselves where they are wide.

import { element } from "./dom.js";

/**
 * columns: texts, or {text, numeric}; rows: of each its cells, texts or nodes, the first one its heading.
 * empty: what is said where there are no rows.
 */
export function table({ caption, columns, rows, empty }) {
  if (rows.length === 0) return element("p", "empty", empty);
  const node = element("table");
  node.appendChild(element("caption", "", caption));
  const heads = columns.map((column) => (typeof column === "string" ? { text: column } : column));
  const head = node.appendChild(element("thead")).appendChild(element("tr"));
  for (const { text, numeric, quiet } of heads) {
    const cell = head.appendChild(element("th", numeric ? "number" : ""));
    cell.scope = "col";
    cell.appendChild(element("span", quiet ? "hidden" : "", text));
  }
  const body = node.appendChild(element("tbody"));
  for (const cells of rows) {
    const row = body.appendChild(element("tr"));
    cells.forEach((content, at) => {
      const cell = row.appendChild(element(at === 0 ? "th" : "td", heads[at].numeric ? "number" : ""));
      if (at === 0) cell.scope = "row";
      cell.append(content ?? "");
    });
  }
  const box = element("div", "scroll");
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", caption);
  box.appendChild(node);
  return box;
}

/** Buttons of a row: [text, what it is about, act, danger]. */
export function actions(...buttons) {
  const box = element("div", "actions");
  for (const [text, subject, act, danger] of buttons) {
    const node = box.appendChild(element("button", danger ? "danger" : "", text));
    node.type = "button";
    node.setAttribute("aria-label", `${text} ${subject}`);
    node.addEventListener("click", act);
  }
  return box;
}

/** A heading with buttons beside it: [text, act]. It takes the focus when what is below it has changed. */
export function heading(text, ...buttons) {
  const row = element("div", "row");
  const title = row.appendChild(element("h2", "", text));
  title.tabIndex = -1;
  row.appendChild(element("span", "spacer"));
  for (const [label, act] of buttons) {
    const node = row.appendChild(element("button", "primary", label));
    node.type = "button";
    node.addEventListener("click", act);
  }
  return row;
}
