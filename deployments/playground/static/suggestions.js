// The suggestion in the editor as one of several: which others there are, going from one to the next, and the bar with
// what can be done.

import { texts } from "./alternatives.js";
import { Completion } from "./completion.js";
import { announce, byId } from "./dom.js";
import { ghostText, swapGhost, takenGhost, wholeGhost } from "./ghost.js";
import { markChoice, rankChoices, renderChoices, showChoices } from "./results.js";

const MORE = { n: 4, temperature: 0.7, seed: undefined }; // of others to a suggestion that came alone

export class Suggestions {
  /** The Completion whose choices the suggestion is one of. */
  completion = null;
  #wanted = 0; // which way to go on once all choices are whole
  #view;
  #insert;
  #follow;

  /** insert(text): at the cursor. follow(request): runs it, unless another one runs; whether it came to its end. */
  constructor(view, { insert, follow }) {
    this.#view = view;
    this.#insert = insert;
    this.#follow = follow;
  }

  begin(completion) {
    this.completion = completion;
    this.#wanted = 0;
    showChoices(completion, (choice) => this.#insert(choice.text));
  }

  /** All choices are whole. */
  end() {
    rankChoices(this.completion);
    this.show();
    if (this.#wanted) this.cycle(this.#wanted);
  }

  /** Keeps the bar and the cards in step with the editor. */
  show() {
    const shown = ghostText(this.#view) !== "";
    const all = shown ? this.#texts() : [];
    byId("suggestion").hidden = !shown;
    byId("editor-hint").hidden = shown;
    byId("suggestion-place").textContent = this.completion?.running ? "…" : all.length > 1 ? `${this.#at(all) + 1} of ${all.length}` : "more";
    markChoice(shown ? wholeGhost(this.#view.state) : "");
  }

  announce() {
    const all = this.#texts();
    const place = all.length > 1 ? ` ${this.#at(all) + 1} of ${all.length}` : "";
    announce(`Suggestion${place}: ${ghostText(this.#view).trim().slice(0, 300)}. Tab accepts it.`);
  }

  /** Shows another one; where there is none yet, asks for some. Whether there was a suggestion to begin with. */
  cycle(step) {
    if (!ghostText(this.#view)) return false;
    if (this.completion.running) this.#wanted = step;
    else this.#goOn(step);
    return true;
  }

  async #goOn(step) {
    if (this.#texts().length < 2 && !(await this.#askForMore())) return;
    const all = this.#texts();
    if (all.length < 2) return announce("There is no other suggestion.");
    swapGhost(this.#view, all[(this.#at(all) + step + all.length) % all.length]);
    this.announce();
  }

  /** Whether others came while the suggestion still stood. */
  async #askForMore() {
    const { completion } = this;
    const temperature = Math.max(MORE.temperature, completion.body.temperature);
    const more = new Completion({ ...completion.body, ...MORE, temperature });
    if (!(await this.#follow(more)) || this.completion !== completion || !ghostText(this.#view)) return false;
    completion.join(more);
    this.begin(completion);
    renderChoices(completion);
    this.end();
    return true;
  }

  /** None before they are whole. */
  #texts() {
    return this.completion?.running === false ? texts(this.completion.choices, takenGhost(this.#view.state)) : [];
  }

  #at(all) {
    return all.indexOf(wholeGhost(this.#view.state));
  }
}

/** acts: by the name that a button of the bar has in `data-act`. */
export function createBar(acts) {
  const bar = byId("suggestion");
  bar.addEventListener("pointerdown", (event) => event.preventDefault()); // the editor keeps the focus
  bar.addEventListener("click", ({ target }) => acts[target.closest("button")?.dataset.act]?.());
}
