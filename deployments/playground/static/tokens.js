// Generated tokens, coloured by how sure the model was, with the alternatives of the one under the mouse or chosen
// with the arrow keys.

import { isCopied, marked } from "./attribution.js";
import { byId, element } from "./dom.js";

const detail = byId("detail");
const WORST = 4; // nats: from here on the colour is full

const percent = (logprob) => {
  const share = 100 * Math.exp(logprob);
  return share >= 99.95 ? "100 %" : share < 0.1 ? "< 0.1 %" : `${share.toFixed(1)} %`;
};
const shown = (token) => token.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "·") || "∅";

/** The texts between `offsets` (in characters, not UTF-16 units); tokens that are cut from the text are empty. */
function pieces(text, offsets) {
  const characters = Array.from(text);
  return offsets.map((from, i) => characters.slice(from, offsets[i + 1] ?? characters.length).join(""));
}

export class TokenView {
  constructor() {
    this.node = element("pre", "tokens");
    this.node.tabIndex = 0;
    this.node.setAttribute("role", "group");
    this.choice = null;
    this.node.addEventListener("mouseover", (event) => this.show(event.target));
    this.node.addEventListener("mouseleave", hide);
    this.node.addEventListener("blur", () => (this.mark(null), hide()));
    this.node.addEventListener("keydown", (event) => this.step(event));
  }

  render(choice) {
    this.choice = choice;
    const tokens = choice.logprobs.length ? pieces(choice.text, choice.offsets) : [];
    if (!tokens.length) {
      this.node.replaceChildren(...marked(choice));
      return;
    }
    const nodes = tokens.map((text, i) => {
      if (!text) return null;
      const node = element("span", isCopied(choice, choice.offsets[i], text) ? "token copied" : "token", text);
      node.dataset.at = i;
      node.style.setProperty("--doubt", Math.round(70 * Math.min(1, -choice.logprobs[i] / WORST)));
      return node;
    });
    this.node.replaceChildren(...nodes.filter(Boolean));
  }

  step(event) {
    if (event.key === "Escape") return this.mark(null), hide();
    const direction = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const all = [...this.node.querySelectorAll(".token")];
    if (!direction || !all.length) return;
    event.preventDefault();
    const now = all.findIndex((node) => node.classList.contains("chosen"));
    const next = all[now < 0 ? 0 : Math.min(all.length - 1, Math.max(0, now + direction))];
    this.mark(next);
    this.show(next, true);
  }

  mark(node) {
    this.node.querySelector(".chosen")?.classList.remove("chosen");
    node?.classList.add("chosen");
  }

  show(node, speak = false) {
    if (!node?.classList?.contains("token")) return hide();
    const at = Number(node.dataset.at);
    const { chosen, top } = this.choice.alternatives[at];
    const ranked = Object.entries(top).sort((a, b) => b[1] - a[1]);
    const table = element("table");
    for (const [token, logprob] of ranked) {
      const row = table.appendChild(element("tr", token === chosen ? "chosen" : ""));
      row.appendChild(element("td", "", shown(token)));
      const bar = row.appendChild(element("td", "bar")).appendChild(element("i"));
      bar.style.width = `${100 * Math.exp(logprob)}%`;
      row.appendChild(element("td", "", percent(logprob)));
    }
    detail.replaceChildren(table);
    detail.hidden = false;
    const box = node.getBoundingClientRect();
    const below = box.bottom + 6 + detail.offsetHeight < innerHeight;
    detail.style.left = `${Math.max(4, Math.min(box.left, innerWidth - detail.offsetWidth - 4))}px`;
    detail.style.top = `${below ? box.bottom + 6 : box.top - detail.offsetHeight - 6}px`;
    if (speak)
      byId("announcer").textContent = ranked.map(([token, logprob]) => `${token === chosen ? "chosen " : ""}${shown(token)} ${percent(logprob)}`).join(", ");
  }
}

function hide() {
  detail.hidden = true;
}
