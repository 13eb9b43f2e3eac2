// Usage and money: figures, pictures by day, a table by key or by team.

import { budgetBar, dayBars, shareBar } from "./charts.js";
import { element } from "./dom.js";
import { compact, count, day, money, shortDay } from "./format.js";
import { usage } from "./organization.js";
import { heading, table } from "./tables.js";

const DAY = 86400;
const RANGES = [7, 30, 90];
const KINDS = { completed: "completed", superseded: "superseded by newer typing", cancelled: "cancelled by the client", failed: "failed" };
const PERIODS = { day: "today", week: "this week", month: "this month" };
const TOKENS = [
  { name: "prompt", kind: "input" },
  { name: "prompt, from the cache", kind: "cached" },
  { name: "generated", kind: "output" },
];

let range = 30;

const sum = (rows, field) => rows.reduce((total, row) => total + Number(row[field]), 0);

/** team: the one that is looked at; null: all. */
export async function showUsage(node, { team }) {
  const start = Math.floor(Date.now() / 1000 / DAY - range + 1) * DAY;
  const asked = { start, team: team?.id };
  const by = team ? "api_key_id" : "project_id";
  const days = await usage({ ...asked, width: "1d" }); // one after the other: the server has room for one report of each
  const groups = await usage({ ...asked, width: "all", by });
  const kinds = await usage({ ...asked, width: "all", by: "kind" });
  const rows = days.flatMap(({ results }) => results);
  const parts = [head(() => showUsage(node, { team }))];
  if (team?.budget) parts.push(budget(team.budget));
  parts.push(tiles(rows), pictures(days));
  parts.push(groupTable(groups[0]?.results ?? [], team), kindTable(kinds[0]?.results ?? []));
  node.replaceChildren(...parts);
}

function head(again) {
  const row = heading("Usage");
  const label = row.appendChild(element("label", "", "Last "));
  const choice = label.appendChild(element("select"));
  choice.id = "range";
  choice.append(...RANGES.map((days) => new Option(`${days} days`, days)));
  choice.value = range;
  choice.addEventListener("change", async () => {
    range = Number(choice.value);
    await again();
    document.getElementById("range").focus();
  });
  return row;
}

/** What is spent of a team's budget. Used by the list of teams too. */
export function budgetWords({ amount_usd: amount, spent_usd: spent, period, hard }) {
  const share = Number(amount) > 0 ? ` (${Math.round((100 * Number(spent ?? 0)) / Number(amount))} %)` : "";
  const after = hard ? "nothing is computed beyond it" : "going beyond it is only told";
  return `${money(spent ?? 0)} of ${money(amount)} spent ${PERIODS[period]}${share}; ${after}.`;
}

export const budgetPicture = (budget) => budgetBar(Number(budget.spent_usd ?? 0), Number(budget.amount_usd), budgetWords(budget));

function budget(found) {
  const box = element("section", "card");
  box.append(element("h3", "", "Budget"), budgetPicture(found), element("p", "note", budgetWords(found)));
  return box;
}

function tiles(rows) {
  const lines = sum(rows, "accepted_lines");
  const cost = sum(rows, "cost_usd");
  const shown = [
    ["Cost", money(cost), ""],
    ["Requests", compact(sum(rows, "num_model_requests")), ""],
    ["Prompt tokens", compact(sum(rows, "input_tokens")), `${compact(sum(rows, "input_cached_tokens"))} from the cache`],
    ["Generated tokens", compact(sum(rows, "output_tokens")), ""],
    ["Accepted lines", compact(lines), "as editors tell"],
    ["Cost per accepted line", lines ? money(cost / lines) : "–", ""],
  ];
  const list = element("dl", "tiles card");
  list.setAttribute("aria-label", `Sums of ${range} days`);
  for (const [name, value, note] of shown) {
    const tile = list.appendChild(element("div"));
    tile.append(element("dt", "", name), element("dd", "", value));
    if (note) tile.appendChild(element("dd", "note", note));
  }
  return list;
}

function pictures(days) {
  const box = element("div", "pictures");
  const of = (values) => days.map(({ start_time: at, results }) => ({ label: shortDay(at), values: values(results) }));
  const tokens = (results) => [
    sum(results, "input_uncached_tokens"),
    sum(results, "input_cached_tokens"),
    sum(results, "output_tokens"),
  ];
  box.append(
    dayBars({ title: "Cost by day", days: of((results) => [sum(results, "cost_usd")]), series: [{ name: "cost", kind: "input" }], format: money }),
    dayBars({ title: "Tokens by day", days: of(tokens), series: TOKENS, format: compact }),
    byDay(days),
  );
  return box;
}

/** The pictures in numbers. */
function byDay(days) {
  const used = days.filter(({ results }) => results.length);
  const details = element("details");
  details.appendChild(element("summary", "", "The same in numbers"));
  details.appendChild(
    table({
      caption: "Usage by day",
      columns: ["Day", ...["Requests", "Prompt tokens", "From the cache", "Generated tokens", "Cost"].map((text) => ({ text, numeric: true }))],
      rows: used.map(({ start_time: at, results }) => [
        day(at),
        ...["num_model_requests", "input_tokens", "input_cached_tokens", "output_tokens"].map((field) => count(sum(results, field))),
        money(sum(results, "cost_usd")),
      ]),
      empty: "Nothing was used.",
    }),
  );
  return details;
}

const NUMBERS = ["Requests", "Prompt tokens", "Generated tokens", "Accepted lines", "Per line", "Cost"].map((text) => ({ text, numeric: true }));

function groupTable(results, team) {
  const total = sum(results, "cost_usd");
  const ordered = [...results].sort((one, other) => Number(other.cost_usd) - Number(one.cost_usd));
  const name = (row) => (team ? (row.api_key_name ?? row.api_key_id ?? "people, by the playground") : (row.project_name ?? row.project_id));
  return table({
    caption: team ? `Usage by key of ${team.name}` : "Usage by team",
    columns: [team ? "Key" : "Team", ...NUMBERS, "Share of the cost"],
    rows: ordered.map((row) => [
      name(row),
      ...["num_model_requests", "input_tokens", "output_tokens", "accepted_lines"].map((field) => count(row[field])),
      row.cost_per_accepted_line_usd === null ? "–" : money(row.cost_per_accepted_line_usd),
      money(row.cost_usd),
      shareBar(total > 0 ? Number(row.cost_usd) / total : 0),
    ]),
    empty: `Nothing was used in ${range} days.`,
  });
}

function kindTable(results) {
  if (results.length === 0) return "";
  return table({
    caption: "What became of it",
    columns: ["Kind", { text: "Requests", numeric: true }, { text: "Generated tokens", numeric: true }, { text: "Cost", numeric: true }],
    rows: results.map((row) => [KINDS[row.kind] ?? row.kind, count(row.num_model_requests), count(row.output_tokens), money(row.cost_usd)]),
    empty: "",
  });
}
