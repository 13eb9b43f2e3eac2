// Whose code a completion repeats: the parts in its text, and where they stand.

import { element } from "./dom.js";

/** Marks the parts of a text without tokens. Returns nodes. */
export function marked({ text, attribution }) {
  const characters = Array.from(text);
  const piece = (from, to) => characters.slice(from, to).join("");
  const nodes = [];
  let at = 0;
  for (const { start, end } of attribution) {
    nodes.push(piece(at, start), element("mark", "copied", piece(start, end)));
    at = end;
  }
  return [...nodes, piece(at)];
}

/** Whether a token with this text, at `offset` (in characters), is in a part. */
export const isCopied = ({ attribution }, offset, text) =>
  attribution.some(({ start, end }) => offset < end && offset + Array.from(text).length > start);

/** A line for each part: where it stands, too, and under which licence; null where there is none. */
export function sourcesOf({ attribution }) {
  if (!attribution.length) return null;
  const list = element("ul", "sources");
  for (const { start, end, sources } of attribution) {
    const line = list.appendChild(element("li", "", `Characters ${start + 1} to ${end} are also in `));
    sources.forEach(({ file, line: number, licence }, i) => {
      if (i) line.append(", ");
      line.append(element("code", "", `${file}:${number}`), ` (${licence ?? "licence unknown"})`);
    });
  }
  return list;
}
