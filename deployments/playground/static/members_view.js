// The people of a team, and what they may do there.

import { ask } from "./dialogs.js";
import { announce, element } from "./dom.js";
import { day } from "./format.js";
import { addMember, changeMember, members, removeMember } from "./organization.js";
import { actions, heading, table } from "./tables.js";

const ROLES = [["member", "member: keys of their own"], ["owner", "owner: members and all keys"], ["viewer", "viewer: looks"]];

/** team: whose. standing: {role, admin, user} of who looks. onProblem(error): what could not be changed. */
export async function showMembers(node, { team, standing, onProblem }) {
  const found = await members(team.id);
  const again = async (said) => {
    await showMembers(node, { team, standing, onProblem });
    node.querySelector("h2").focus();
    announce(said);
  };
  const owner = standing.admin || standing.role === "owner";
  const name = (member) => member.name ?? member.email ?? member.id;
  const row = (member) => [
    member.id === standing.user ? `${name(member)} (you)` : name(member),
    member.email ?? "–",
    owner ? roleChoice(team, member, name(member), again, onProblem) : member.role,
    day(member.added_at),
    owner ? actions(["Remove", name(member), () => removal(team, member, name(member), again), true]) : "",
  ];
  node.replaceChildren(
    heading("Members", ...(owner ? [["Add somebody", () => addition(team, again)]] : [])),
    table({
      caption: `Members of ${team.name}`,
      columns: ["Name", "E-mail", "Role", "Since", { text: "Actions", quiet: true }],
      rows: found.map(row),
      empty: "Nobody is in this team: its keys work nevertheless.",
    }),
  );
}

function roleChoice(team, member, name, again, onProblem) {
  const choice = element("select");
  choice.setAttribute("aria-label", `Role of ${name}`);
  choice.append(...ROLES.map(([role]) => new Option(role, role)));
  choice.value = member.role;
  choice.addEventListener("change", async () => {
    try {
      await changeMember(team.id, member.id, { role: choice.value });
      await again(`${name} is ${choice.value} now.`);
    } catch (error) {
      choice.value = member.role;
      onProblem(error);
    }
  });
  return choice;
}

async function addition(team, again) {
  const added = await ask({
    title: `Add somebody to ${team.name}`,
    fields: [
      { name: "who", label: "Id or e-mail address", required: true, hint: "The id is shown to people who sign in and are in no team. Administrators may give the address of somebody who is in another team." },
      { name: "role", label: "Role", options: ROLES, value: "member" },
    ],
    action: "Add",
    onSubmit: ({ who, role }) => addMember(team.id, who.includes("@") ? { email: who, role } : { user_id: who, role }),
  });
  if (added) await again(`${added.name ?? added.id} is in the team.`);
}

async function removal(team, member, name, again) {
  const done = await ask({
    title: `Remove ${name} from ${team.name}?`,
    note: "The keys of this team that they made are revoked.",
    action: "Remove",
    danger: true,
    onSubmit: () => removeMember(team.id, member.id),
  });
  if (done) await again(`${name} is in the team no more.`);
}
