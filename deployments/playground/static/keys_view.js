// A team's keys: make, limit and revoke them.

import { ask, showOnce } from "./dialogs.js";
import { announce } from "./dom.js";
import { day, limit } from "./format.js";
import { limitFields, limitsOf } from "./limit_fields.js";
import { changeKey, createKey, keys, revokeKey } from "./organization.js";
import { actions, heading, table } from "./tables.js";

const LIVES = [["30d", "30 days"], ["90d", "90 days"], ["365d", "a year"], ["", "never"]];
const SCOPES = { generate: "completions", usage: "usage", metrics: "metrics", admin: "everything" };

/** team: whose. standing: {role, admin, user} of who looks. */
export async function showKeys(node, { team, standing }) {
  const found = await keys(team.id);
  const again = async (said) => {
    await showKeys(node, { team, standing });
    node.querySelector("h2").focus();
    announce(said);
  };
  const owner = standing.admin || standing.role === "owner";
  const mayMake = owner || standing.role === "member";
  const own = (key) => standing.user !== null && key.created_by === `user:${standing.user}`;
  const row = (key) => {
    const buttons = [];
    if (owner) buttons.push(["Limits", `of ${key.name}`, () => limits(team, key, again)]);
    if (owner || (mayMake && own(key))) buttons.push(["Revoke", key.name, () => revoke(team, key, again), true]);
    return [
      key.name,
      `…${key.last_four}`,
      `${maker(key)}${key.owner_project_access === "inactive" ? " (no member: not good)" : ""}`,
      key.scopes.map((scope) => SCOPES[scope]).join(", "),
      limit(key.requests_per_minute),
      limit(key.tokens_per_minute),
      limit(key.parallel),
      key.expires_at === null ? "never" : day(key.expires_at),
      buttons.length ? actions(...buttons) : "",
    ];
  };
  node.replaceChildren(
    heading("Keys", ...(mayMake ? [["New key", () => make(team, again)]] : [])),
    table({
      caption: `Keys of ${team.name}`,
      columns: [
        "Name", "Ends with", "Made by", "May do",
        ...["Requests a minute", "Tokens a minute", "At once"].map((text) => ({ text, numeric: true })),
        "Expires", { text: "Actions", quiet: true },
      ],
      rows: found.map(row),
      empty: "There are no keys yet.",
    }),
  );
}

const MAKERS = { local: "a command", key: "a key", admin: "an administrator" };
const maker = (key) => key.owner.user?.name ?? MAKERS[key.created_by.split(":")[0]];

async function make(team, again) {
  const made = await ask({
    title: `New key of ${team.name}`,
    fields: [
      { name: "name", label: "Name", required: true, maxLength: 200, hint: "What it is for, such as: laptop, nightly evaluation" },
      { name: "expires", label: "Expires after", options: LIVES, value: "90d" },
    ],
    action: "Make it",
    onSubmit: ({ name, expires }) => createKey(team.id, { name, ...(expires && { expires }) }),
  });
  if (!made) return;
  await showOnce({
    title: `The key “${made.name}”`,
    label: "The new API key",
    value: made.value,
    note: "Copy it now. It is not shown again: who loses it makes another one.",
  });
  await again(`The key ${made.name} is made.`);
}

async function revoke(team, key, again) {
  const done = await ask({
    title: `Revoke “${key.name}”, which ends with ${key.last_four}?`,
    note: "Whoever uses it is refused within two seconds. This cannot be undone.",
    action: "Revoke it",
    danger: true,
    onSubmit: () => revokeKey(team.id, key.id),
  });
  if (done) await again(`The key ${key.name} is revoked.`);
}

async function limits(team, key, again) {
  const done = await ask({
    title: `Limits of “${key.name}”`,
    note: "On top of those of the team. Empty: no limit of its own.",
    fields: limitFields(key),
    action: "Save",
    onSubmit: (values) => changeKey(team.id, key.id, limitsOf(values)),
  });
  if (done) await again(`The limits of ${key.name} are changed.`);
}
