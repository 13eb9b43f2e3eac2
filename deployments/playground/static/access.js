// As whom this page asks: with a key that somebody entered, or in the session of who has signed in.

const KEY = "starcoder-key";
const TEAM = "starcoder-team";

/** Lives as long as the tab; where storage is forbidden, as long as the page. */
const kept = new Map();

function keep(name, value) {
  kept.set(name, value);
  try {
    if (value) sessionStorage.setItem(name, value);
    else sessionStorage.removeItem(name);
  } catch { /* then only here */ }
}

function recall(name) {
  if (!kept.has(name)) {
    try { kept.set(name, sessionStorage.getItem(name) ?? ""); } catch { kept.set(name, ""); }
  }
  return kept.get(name);
}

export const setKey = (key) => keep(KEY, key.trim());
export const hasKey = () => recall(KEY) !== "";
/** By which its owner knows the key again. */
export const keyEnd = () => recall(KEY).slice(-4);

/** On whose account somebody asks who is in several teams. */
export const setTeam = (id) => keep(TEAM, id);
export const team = () => recall(TEAM);

/** Header fields of a request. */
export function credentials() {
  if (hasKey()) return { authorization: `Bearer ${recall(KEY)}` };
  return team() ? { "openai-project": team() } : {};
}

/** {sign_on: whether people can sign in here, user: who has}. */
export async function whoIsHere() {
  try {
    const answer = await fetch(new URL("login/session", document.baseURI));
    if (answer.ok) return await answer.json();
  } catch { /* the server is down, which the page tells by itself */ }
  return { sign_on: false, user: null };
}

export const nameOf = (user) => user.name ?? user.email ?? user.id;

/** Leaves for the identity provider, to come back to the page at `target`. */
export function signIn(target) {
  location.assign(new URL(`login?next=${encodeURIComponent(target)}`, document.baseURI));
}

/** Whether it worked; then the page is being left. */
export async function signOut() {
  setTeam("");
  try {
    const answer = await fetch(new URL("logout", document.baseURI), { method: "POST" });
    if (!answer.ok) return false;
    location.assign((await answer.json()).location);
    return true;
  } catch {
    return false;
  }
}
