// Who changed what, from the newest on.

import { announce, element } from "./dom.js";
import { money, time } from "./format.js";
import { audit } from "./organization.js";
import { heading, table } from "./tables.js";

/** teams: by whose names their ids are shown. */
export async function showAudit(node, { teams }) {
  const names = new Map(teams.map(({ id, name }) => [id, name]));
  const entries = [];
  const render = (more) => {
    const parts = [
      heading("Audit log"),
      element("p", "note", "Each entry holds the digest of the one before: starcoder audit verify tells whether one was changed."),
      table({ caption: "Changes", columns: [{ text: "No.", numeric: true }, "When", "Who", "What", "Of", "Details"], rows: entries.map((entry) => row(entry, names)), empty: "Nothing was changed yet." }),
    ];
    if (more) {
      const button = element("button", "", "Older entries");
      button.type = "button";
      button.addEventListener("click", () => read(entries.at(-1).id));
      parts.push(button);
    }
    node.replaceChildren(...parts);
  };
  const read = async (after) => {
    const { data, has_more: more } = await audit(after);
    entries.push(...data);
    render(more);
    if (!after) return;
    announce(`${data.length} older entries.`);
    node.querySelector("h2").focus();
  };
  await read();
}

const row = (entry, names) => [
  String(entry.number),
  time(entry.effective_at),
  entry.actor_id,
  entry.action,
  names.get(entry.subject) ?? entry.subject,
  Object.entries(entry.detail).map(([name, value]) => `${name}: ${words(name, value)}`).join(", "),
];

/** Amounts are stored in 10^-12 dollars, times in seconds. */
function words(name, value) {
  if (value === null) return "none";
  if (name === "budget_amount") return money(value / 1e12);
  return name.endsWith("_at") ? time(value) : value;
}
