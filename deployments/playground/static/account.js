// A page's account: who asks, for which team, and the dialog that asks for a key.

import { hasKey, setTeam, team, whoIsHere } from "./access.js";
import { getJson } from "./api.js";
import { byId } from "./dom.js";
import { askForKey } from "./key_dialog.js";
import { showWho } from "./who_view.js";

export class Account {
  #here = { sign_on: false, user: null };
  #asking = false;
  #refused = false;

  /** target: this page. onChange(): somebody else asks from now on. */
  constructor({ target, onChange }) {
    this.target = target;
    this.onChange = onChange;
    byId("team").addEventListener("change", ({ target }) => (setTeam(target.value), onChange()));
  }

  /** Whether the server knows who asks. */
  get known() {
    return hasKey() || this.#here.user !== null;
  }

  async begin() {
    this.#here = await whoIsHere();
    await this.#offerTeams();
    this.#show();
  }

  /** The server wants to know who asks: the first time the dialog opens by itself. */
  refused() {
    if (!this.#refused) this.enterKey();
    this.#refused = true;
  }

  async enterKey() {
    if (this.#asking) return;
    this.#asking = true;
    const found = await askForKey({
      signOn: this.#here.sign_on,
      target: this.target,
      check: () => getJson("v1/models"),
    });
    this.#asking = false;
    if (found) this.#changed();
  }

  #changed() {
    this.#show();
    this.#offerTeams();
    this.onChange();
  }

  #show() {
    showWho(byId("who"), {
      here: this.#here,
      target: this.target,
      enterKey: () => this.enterKey(),
      onChange: () => this.#changed(),
    });
  }

  /** Who is in several teams says for which one they ask. */
  async #offerTeams() {
    byId("account").hidden = true;
    if (hasKey() || !this.#here.user) return;
    const { roles } = await getJson("v1/organization/me").catch(() => ({ roles: [] }));
    const theirs = roles.filter(({ role }) => role !== "viewer");
    if (!theirs.some(({ id }) => id === team())) setTeam(theirs[0]?.id ?? "");
    byId("team").replaceChildren(...theirs.map(({ id, name }) => new Option(name, id)));
    byId("team").value = team();
    byId("account").hidden = theirs.length < 2;
  }
}
