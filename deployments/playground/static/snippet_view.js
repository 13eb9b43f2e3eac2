// The current request as code to copy.

import { hasKey } from "./access.js";
import { announce, byId, copy } from "./dom.js";
import { snippets } from "./snippets.js";

const kind = byId("snippet-kind");

/** current(): {path, body} of the request. served(): {withKey, window}: whether the server asks for one, and the model's tokens. */
export function createSnippetView({ current, served }) {
  function show() {
    const { write, note } = snippets[kind.value] ?? snippets.curl;
    const { path, body } = current();
    const { logprobs: _, ...wanted } = body; // they colour this page
    const origin = new URL(".", document.baseURI).href.replace(/\/$/, "");
    const { withKey, window } = served();
    byId("snippet").textContent = write({ origin, path, body: wanted, withKey, window });
    const aboutKey = withKey ? `The key is not in it: set the variable, or put it in where it says YOUR_KEY.${hasKey() ? "" : " The page “Teams” makes you one."}` : "";
    byId("snippet-note").textContent = [note, aboutKey].filter(Boolean).join(" ");
  }
  kind.addEventListener("change", show);
  byId("snippet-copy").addEventListener("click", copySnippet);
  return show;
}

/** The kinds of code that there are for a task. */
export function offerSnippets(task) {
  const options = Object.entries(snippets)
    .filter(([, { task: only }]) => !only || only === task)
    .map(([name, { label }]) => new Option(label, name));
  const before = kind.value;
  kind.replaceChildren(...options);
  if (options.some((option) => option.value === before)) kind.value = before;
}

async function copySnippet({ target }) {
  target.textContent = (await copy(byId("snippet").textContent)) ? "Copied" : "Not allowed here";
  announce(target.textContent);
  setTimeout(() => (target.textContent = "Copy"), 1500);
}
