// Puts the page of teams together: who looks, at which team, and at what of it.

import { hasKey, signIn, whoIsHere } from "./access.js";
import { explain } from "./api.js";
import { showAudit } from "./audit_view.js";
import { byId, tabs } from "./dom.js";
import { askForKey } from "./key_dialog.js";
import { showKeys } from "./keys_view.js";
import { showMembers } from "./members_view.js";
import { me, teams } from "./organization.js";
import { showPrices } from "./prices_view.js";
import { showTeams } from "./teams_view.js";
import { showUsage } from "./usage_view.js";
import { showWho } from "./who_view.js";

const TARGET = "/teams";
const VIEWS = {
  "view-usage": showUsage,
  "view-keys": showKeys,
  "view-members": showMembers,
  "view-teams": showTeams,
  "view-prices": showPrices,
  "view-audit": showAudit,
};

let here = { sign_on: false, user: null };
let standing = null; // {admin, user, role: in the team that is looked at, roles: by team}
let known = []; // teams
let shown = "view-usage";
let turn = 0; // of what is being read: an older answer is dropped

// Problems

let lastTry = begin;

function problem(error) {
  const { title, detail } = explain(error.kind ? error : { kind: "failed", message: String(error) });
  byId("problem-title").textContent = title;
  byId("problem-detail").textContent = detail;
  byId("problem").hidden = false;
}

/** Does it, and tells what went wrong. */
async function attempt(action) {
  byId("problem").hidden = true;
  lastTry = action;
  try {
    await action();
  } catch (error) {
    if (error.kind === "unauthorized") door(error.message);
    else problem(error);
  }
}

byId("problem-action").addEventListener("click", () => attempt(lastTry));

// Who looks

async function begin() {
  here = await whoIsHere();
  who();
  if (!hasKey() && !here.user) return door();
  let found = await me();
  known = await teams();
  // What they were put into just now may be in the second answer only.
  const isNews = ({ id }) => !found.roles.some((role) => role.id === id);
  if (found.user && !found.admin && known.some(isNews)) found = await me();
  standing = { admin: found.admin, user: found.user, roles: new Map(found.roles.map(({ id, role }) => [id, role])) };
  if (known.length === 0 && found.project) known = [found.project];
  const nowhere = !found.admin && known.length === 0;
  show(nowhere ? "nowhere" : "inside");
  if (nowhere) byId("own-id").textContent = found.user ?? found.actor;
  else await enter();
}

function show(part) {
  for (const id of ["door", "nowhere", "inside"]) byId(id).hidden = id !== part;
}

function who() {
  showWho(byId("who"), { here, target: TARGET, enterKey, onChange: () => attempt(begin) });
}

function door(reason = "") {
  const ways = here.sign_on ? "Sign in to make keys and to see what your teams use, or use an API key." : "With an API key you see what its team uses; administrators’ keys do everything.";
  byId("door-text").textContent = `${reason} ${ways}`.trim();
  byId("door-sign-in").hidden = !here.sign_on;
  show("door");
  who();
}

async function enterKey() {
  if (await askForKey({ signOn: here.sign_on, target: TARGET, check: me })) await attempt(begin);
}

byId("door-sign-in").addEventListener("click", () => signIn(TARGET));
byId("door-key").addEventListener("click", enterKey);

// Which team, and what of it

const team = () => known.find(({ id }) => id === byId("team").value) ?? null;

function enter() {
  const before = byId("team").value;
  const options = known.map(({ id, name }) => new Option(name, id));
  if (standing.admin || known.length > 1) options.unshift(new Option("all teams", ""));
  byId("team").replaceChildren(...options);
  byId("team").value = options.some(({ value }) => value === before) ? before : options[0].value;
  arrange();
  return refresh();
}

/** Which views there are for who looks at this team. */
function arrange() {
  standing.role = standing.roles.get(team()?.id) ?? null;
  const people = team() !== null && (standing.admin || standing.role !== null);
  byId("tab-keys").hidden = byId("tab-members").hidden = !people;
  byId("tab-teams").hidden = byId("tab-audit").hidden = !standing.admin;
  byId("standing").textContent = standing.admin ? "You are an administrator." : standing.role ? `You are ${standing.role} here.` : "";
  if (byId(shown.replace("view", "tab")).hidden) select(byId("tab-usage"));
}

async function reload() {
  known = await teams();
  await enter();
}

const select = tabs(byId("views"), (tab) => {
  shown = tab.getAttribute("aria-controls");
  for (const id of Object.keys(VIEWS)) byId(id).hidden = id !== shown;
  refresh();
});

byId("team").addEventListener("change", () => (arrange(), refresh()));

function refresh() {
  if (standing === null) return Promise.resolve();
  return attempt(async () => {
    const mine = (turn += 1);
    const node = byId(shown);
    const fresh = document.createElement("div");
    node.setAttribute("aria-busy", "true");
    try {
      await VIEWS[shown](fresh, { team: team(), standing, teams: known, onChange: reload, onProblem: problem });
    } finally {
      if (mine === turn) node.removeAttribute("aria-busy");
    }
    if (mine === turn) node.replaceChildren(fresh);
  });
}

attempt(begin);
