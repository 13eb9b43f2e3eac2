// The output of a completion: its choices side by side, and the figures.

import { certainty, merged } from "./alternatives.js";
import { sourcesOf } from "./attribution.js";
import { byId, element } from "./dom.js";
import { RULES } from "./stop-rules.js"; // made by the server
import { TokenView } from "./tokens.js";

const ENDINGS = { stop: "ended", length: "max tokens", content_filter: "cut: it repeats known code" };
const integer = new Intl.NumberFormat("en");
const tokens = (count) => `${integer.format(count)} ${count === 1 ? "token" : "tokens"}`;

let cards = [];
let shown = null;

/** Cards for the choices of `completion`; onInsert(choice) when one is taken. */
export function showChoices(completion, onInsert) {
  byId("no-output").hidden = true;
  byId("refactoring").hidden = true;
  shown = completion;
  cards = completion.choices.map((choice) => new Card(choice, onInsert));
  arrange(cards, completion);
}

class Card {
  constructor(choice, onInsert) {
    this.choice = choice;
    this.node = element("article", "choice");
    const head = this.node.appendChild(element("header"));
    this.title = head.appendChild(element("b"));
    this.note = head.appendChild(element("span", "note"));
    this.insert = head.appendChild(element("button", "", "Insert"));
    this.insert.type = "button";
    this.insert.addEventListener("click", () => onInsert(choice));
    this.view = new TokenView();
    this.node.appendChild(this.view.node);
    this.summary = this.node.appendChild(element("footer", "", "…"));
    this.summary.title = "Tokens, mean log-probability of a token, and why it ended";
  }

  /** place: from 1. count: how many choices it stands for. */
  number(place, count) {
    const name = `choice ${place}`;
    this.node.setAttribute("aria-label", `Choice ${place}`);
    this.title.textContent = `Choice ${place}`;
    this.note.textContent = count > 1 ? `${count} times` : "";
    this.insert.setAttribute("aria-label", `Insert ${name} at the cursor`);
    this.view.node.setAttribute("aria-label", `Text of ${name}; arrow keys walk through its tokens`);
  }

  render(completion) {
    this.view.render(this.choice);
    this.node.querySelector(".sources")?.remove();
    const sources = sourcesOf(this.choice);
    if (sources) this.summary.before(sources);
    this.summary.textContent = describe(this.choice, completion);
  }
}

/** list: the cards to show, in this order; counts: how many choices each stands for. */
function arrange(list, completion, counts = list.map(() => 1)) {
  list.forEach((card, i) => card.number(i + 1, counts[i]));
  const nodes = list.map(({ node }) => node);
  if (completion.body.logprobs !== undefined) nodes.push(legend());
  byId("choices").replaceChildren(...nodes);
}

/** Once all choices are whole: the likeliest first, equal ones as one. */
export function rankChoices(completion) {
  if (completion !== shown) return;
  const ranked = merged(completion.choices);
  const byChoice = new Map(cards.map((card) => [card.choice, card]));
  arrange(ranked.map(({ choice }) => byChoice.get(choice)), completion, ranked.map(({ count }) => count));
}

/** Marks the card of the text that stands in the editor as a suggestion; an empty text marks none. */
export function markChoice(text) {
  for (const { node, choice } of cards) {
    if (text && choice.text === text) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
  }
}

function legend() {
  const node = element("p", "legend");
  node.append("sure", element("i"), "unsure; point at a token, or walk with the arrow keys, for what else it could have been");
  return node;
}

export function renderChoices(completion) {
  if (completion !== shown) return;
  for (const card of cards) card.render(completion);
}

function describe(choice, completion) {
  const words = [];
  const mean = certainty(choice);
  if (mean !== null) words.push(tokens(choice.logprobs.length), `mean log-prob ${mean.toFixed(2).replace("-", "−")}`);
  if (choice.finishReason) words.push(endingOf(choice));
  else words.push(completion.running ? "streaming …" : completion.failed ? "broke off" : "stopped");
  return words.join(" · ");
}

/** Why a choice ended, in words. */
export const endingOf = ({ endedBy, finishReason }) => RULES[endedBy] ?? ENDINGS[finishReason] ?? finishReason;

/** As if nothing had been asked. */
export function clearOutput() {
  hideOutput();
  byId("no-output").hidden = false;
}

/** Of a request without an answer, of which a notice tells. */
export function hideOutput() {
  shown = null;
  cards = [];
  byId("choices").replaceChildren();
  byId("refactoring").hidden = true;
  byId("no-output").hidden = true;
}

/** Figures of a completion or a refactoring; `maxModelLen` is the window in tokens. */
export function showFigures(run, maxModelLen) {
  const { usage, ttft, speed, generated } = run;
  figure("ttft", ttft, (value) => [value < 10 ? value.toFixed(1) : integer.format(Math.round(value)), "ms"]);
  figure("speed", speed, (value) => [value < 10 ? value.toFixed(1) : integer.format(Math.round(value)), "tokens/s"]);
  byId("of-choices").textContent = run.choices?.length > 1 ? ", all choices" : "";
  const prompt = usage?.prompt_tokens ?? null;
  const cached = usage?.prompt_tokens_details.cached_tokens ?? null;
  figure("prompt", prompt, (value) => [integer.format(value), "tokens"]);
  figure("cached", cached, (value) => [integer.format(value), value ? `${Math.round((100 * value) / prompt)} %` : "tokens"]);
  figure("generated", generated, (value) => [integer.format(value), "tokens"]);
  // Choices share the prompt, and each has the rest of the window to itself.
  const longest = usage ? Math.ceil(generated / (run.choices?.length ?? 1)) : null;
  const left = usage && maxModelLen ? maxModelLen - prompt - longest : null;
  figure("left", left, (value) => [integer.format(value), `of ${integer.format(maxModelLen)}`]);
  const share = (count) => `${maxModelLen && count ? (100 * count) / maxModelLen : 0}%`;
  byId("meter-cached").style.width = share(cached);
  byId("meter-prompt").style.width = share(prompt - cached);
  byId("meter-generated").style.width = share(longest);
}

function figure(name, value, format) {
  const node = byId(`figure-${name}`);
  if (value === null || value === undefined || Number.isNaN(value)) {
    node.textContent = "–";
    return;
  }
  const [amount, unit] = format(value);
  node.replaceChildren(`${amount} `, element("small", "", unit));
}
