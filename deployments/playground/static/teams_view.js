// All teams, for administrators: make them, say what they may use, end them.

import { ask } from "./dialogs.js";
import { announce, byId, element } from "./dom.js";
import { limit } from "./format.js";
import { limitFields, limitsOf } from "./limit_fields.js";
import { archiveTeam, changeTeam, createTeam } from "./organization.js";
import { actions, heading, table } from "./tables.js";
import { budgetPicture, budgetWords } from "./usage_view.js";

const CLASSES = [["interactive", "interactive: served first"], ["standard", "standard"], ["batch", "batch: served last"]];
const PERIODS = [["month", "month"], ["week", "week"], ["day", "day"]];

/** teams: all. onChange(): the list is old; it is read again, and then this view is shown again. */
export function showTeams(node, { teams, onChange }) {
  const again = async (said) => {
    await onChange();
    byId("view-teams").querySelector("h2").focus();
    announce(said);
  };
  const row = (team) => [
    team.name,
    team.service_class,
    String(team.weight),
    limit(team.requests_per_minute),
    limit(team.tokens_per_minute),
    limit(team.parallel),
    team.budget ? budgetCell(team.budget) : "–",
    actions(["Change", team.name, () => change(team, again)], ["End", team.name, () => archive(team, again), true]),
  ];
  node.replaceChildren(
    heading("Teams", ["New team", () => make(again)]),
    table({
      caption: "What teams may use",
      columns: [
        "Name", "Class",
        ...["Weight", "Requests a minute", "Tokens a minute", "At once"].map((text) => ({ text, numeric: true })),
        "Budget", { text: "Actions", quiet: true },
      ],
      rows: teams.map(row),
      empty: "There are no teams yet.",
    }),
  );
}

function budgetCell(budget) {
  const cell = element("div", "budget-cell");
  cell.append(budgetPicture(budget), element("span", "note", budgetWords(budget).replace(/;.*/, budget.hard ? ", hard" : "")));
  return cell;
}

const fields = (team) => [
  { name: "name", label: "Name", required: true, maxLength: 64, pattern: "[a-z0-9_.\\-]+", value: team.name ?? "", hint: "a-z, 0-9, - _ ." },
  { name: "service_class", label: "Class of service", options: CLASSES, value: team.service_class ?? "standard" },
  { name: "weight", label: "Weight", type: "number", min: 0.001, step: "any", required: true, value: team.weight ?? 1, hint: "Its share of a full server, against others of its class" },
  ...limitFields(team),
  { name: "amount_usd", label: "Budget in USD", inputMode: "decimal", pattern: "\\d+(\\.\\d+)?", placeholder: "none", value: team.budget?.amount_usd ?? "" },
  { name: "period", label: "for each", options: PERIODS, value: team.budget?.period ?? "month" },
  { name: "hard", label: "Compute nothing beyond the budget", type: "checkbox", value: team.budget?.hard ?? false, wide: true },
];

const body = (values) => ({
  name: values.name,
  service_class: values.service_class,
  weight: Number(values.weight),
  ...limitsOf(values),
  budget: values.amount_usd ? { amount_usd: values.amount_usd, period: values.period, hard: values.hard } : null,
});

async function make(again) {
  const made = await ask({ title: "New team", fields: fields({}), action: "Make it", onSubmit: (values) => createTeam(body(values)) });
  if (made) await again(`The team ${made.name} is made.`);
}

async function change(team, again) {
  const changed = await ask({ title: `Change ${team.name}`, fields: fields(team), action: "Save", onSubmit: (values) => changeTeam(team.id, body(values)) });
  if (changed) await again(`The team ${changed.name} is changed.`);
}

async function archive(team, again) {
  const done = await ask({
    title: `End the team ${team.name}?`,
    note: "Its keys are revoked with it. What it has used stays on the books.",
    action: "End it",
    danger: true,
    onSubmit: () => archiveTeam(team.id),
  });
  if (done) await again(`The team ${team.name} has ended.`);
}
