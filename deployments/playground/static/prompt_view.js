// The exact prompt: what the engine gets, special tokens coloured.

import { postJson, explain } from "./api.js";
import { byId, element } from "./dom.js";

const node = byId("prompt");
const summary = byId("prompt-summary");
const integer = new Intl.NumberFormat("en");
let controller = new AbortController();

byId("boundaries").addEventListener("change", (event) => node.classList.toggle("boundaries", event.target.checked));

function kind(name) {
  if (name.includes("fim")) return "fim";
  return name.includes("endoftext") ? "end" : "context";
}

const PARTIAL = /^bytes:((?:\\x[0-9a-f]{2})+)$/;

/** Tokens to texts: neighbours that are parts of one character (`bytes:\xe2`) become one. */
function* texts(tokens, special) {
  let bytes = [];
  const flush = () => {
    const text = new TextDecoder().decode(new Uint8Array(bytes));
    bytes = [];
    return { text, special: false };
  };
  for (let i = 0; i < tokens.length; i++) {
    const partial = special.has(i) ? null : PARTIAL.exec(tokens[i]);
    if (partial) {
      bytes.push(...partial[1].slice(2).split("\\x").map((hex) => parseInt(hex, 16)));
      continue;
    }
    if (bytes.length) yield flush();
    yield { text: tokens[i], special: special.has(i) };
  }
  if (bytes.length) yield flush();
}

/** Ask for the rendering of `body` and show it; a newer call replaces an older one. */
export async function showPrompt(body) {
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  try {
    const found = await postJson("v1/completions/render", { ...body, stream: undefined, n: undefined }, { signal });
    const special = new Set(found.special_positions);
    const nodes = [...texts(found.tokens, special)].map((piece) =>
      element("span", piece.special ? `special ${kind(piece.text)}` : "plain", piece.text),
    );
    node.replaceChildren(...nodes);
    const count = found.token_ids.length;
    summary.textContent =
      `${integer.format(count)} tokens, ${special.size} of them special; ` +
      `${integer.format(found.remaining_tokens)} of ${integer.format(found.max_model_len)} are left.`;
  } catch (error) {
    if (error.name === "AbortError") return;
    const { title, detail } = explain(error);
    node.replaceChildren();
    summary.textContent = `${title} ${detail}`;
  }
}
