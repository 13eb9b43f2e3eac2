// The output of a completion: its choices side by side, and the figures.

import { byId, element } from "./dom.js";
import { RULES } from "./stop-rules.js"; // made by the server
import { TokenView } from "./tokens.js";

const ENDINGS = { stop: "ended", length: "max tokens" };
const integer = new Intl.NumberFormat("en");
const tokens = (count) => `${integer.format(count)} ${count === 1 ? "token" : "tokens"}`;

let cards = [];
let shown = null;

/** Cards for the choices of `completion`; onInsert(choice) when one is taken. */
export function showChoices(completion, onInsert) {
  byId("no-output").hidden = true;
  byId("refactoring").hidden = true;
  shown = completion;
  cards = completion.choices.map((choice) => {
    const card = element("article", "choice");
    card.setAttribute("aria-label", `Choice ${choice.index + 1}`);
    const head = card.appendChild(element("header"));
    head.appendChild(element("b", "", `Choice ${choice.index + 1}`));
    const insert = head.appendChild(element("button", "", "Insert"));
    insert.type = "button";
    insert.setAttribute("aria-label", `Insert choice ${choice.index + 1} at the cursor`);
    insert.addEventListener("click", () => onInsert(choice));
    const view = new TokenView(`Text of choice ${choice.index + 1}; arrow keys walk through its tokens`);
    card.appendChild(view.node);
    const summary = card.appendChild(element("footer", "", "…"));
    summary.title = "Tokens, mean log-probability of a token, and why it ended";
    return { card, summary, view };
  });
  const nodes = cards.map(({ card }) => card);
  if (completion.body.logprobs !== undefined) nodes.push(legend());
  byId("choices").replaceChildren(...nodes);
}

function legend() {
  const node = element("p", "legend");
  node.append("sure", element("i"), "unsure; point at a token, or walk with the arrow keys, for what else it could have been");
  return node;
}

export function renderChoices(completion) {
  if (completion !== shown) return;
  completion.choices.forEach((choice, i) => {
    const { summary, view } = cards[i];
    view.render(choice);
    summary.textContent = describe(choice, completion);
  });
}

function describe(choice, completion) {
  const words = [];
  if (choice.logprobs.length) {
    const mean = choice.logprobs.reduce((sum, value) => sum + value, 0) / choice.logprobs.length;
    words.push(tokens(choice.logprobs.length), `mean log-prob ${mean.toFixed(2).replace("-", "−")}`);
  }
  if (choice.finishReason) words.push(choice.text || choice.endedBy ? ending(choice) : "empty");
  else words.push(completion.running ? "streaming …" : completion.failed ? "broke off" : "stopped");
  return words.join(" · ");
}

const ending = ({ endedBy, finishReason }) => RULES[endedBy] ?? ENDINGS[finishReason] ?? finishReason;

export function clearOutput() {
  shown = null;
  byId("choices").replaceChildren();
  byId("refactoring").hidden = true;
  byId("no-output").hidden = false;
}

/** Figures of a completion or a refactoring; `maxModelLen` is the window in tokens. */
export function showFigures(run, maxModelLen) {
  const { usage, ttft, speed, generated } = run;
  figure("ttft", ttft, (value) => [value < 10 ? value.toFixed(1) : integer.format(Math.round(value)), "ms"]);
  figure("speed", speed, (value) => [value < 10 ? value.toFixed(1) : integer.format(Math.round(value)), "tokens/s"]);
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
