// The server that this page talks to: whether it is there, which model it has, and what that can do.

import { getJson } from "./api.js";
import { byId } from "./dom.js";

const POLL = 2000; // ms between looks for a server that is down

export class Server {
  model = null; // {id, max_model_len}, once known
  #poll = 0;

  /** onFound(): it is there. onFailed(error): it could not be asked. */
  constructor({ onFound, onFailed }) {
    Object.assign(this, { onFound, onFailed });
  }

  get ready() {
    return byId("server").dataset.state === "ready";
  }

  async find() {
    clearTimeout(this.#poll);
    try {
      [this.model] = (await getJson("v1/models")).data;
      this.#tell("ready", `${this.model.id} · window of ${this.model.max_model_len.toLocaleString("en")} tokens`);
      byId("ability").textContent = ability(this.model.id, (await getJson("version")).commits);
      this.onFound();
    } catch (error) {
      this.onFailed(error);
    }
  }

  /** After a failure: where the server is not there, it is looked for until it is. */
  lookAgain(error) {
    const down = error.kind === "unreachable";
    if (!down && (this.model !== null || error.kind === "unauthorized")) return;
    this.#tell("down", down ? "Server down" : "Model not available");
    clearTimeout(this.#poll);
    this.#poll = setTimeout(() => this.find(), POLL);
  }

  #tell(state, text) {
    byId("server").dataset.state = state;
    byId("server-text").textContent = text;
  }
}

const LEARNED = "It takes a model that learned from commits, such as bigcode/starcoder.";

/** What the model makes of an instruction. */
function ability(name, commits) {
  if (commits === "none") return `${name} cannot refactor: it has no tokens for commits. ${LEARNED}`;
  if (commits === "untrained") return `${name} has never seen a commit, and will hardly do what an instruction says. ${LEARNED}`;
  return `${name} knows the format of commits: say what to change as a commit message does.`;
}
