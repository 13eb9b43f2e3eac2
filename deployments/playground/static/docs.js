// The reference: Swagger UI over this server's OpenAPI document, with contents beside it and code to copy in it.

import { credentials } from "./access.js";
import { Account } from "./account.js";
import { getJson } from "./api.js";
import { showContents } from "./docs_contents.js";
import { outline } from "./docs_outline.js";
import { codeSamples } from "./docs_samples.js";
import { byId } from "./dom.js";

const PATIENCE_MS = 3000;

const base = new URL(".", document.baseURI).href.replace(/\/$/, "");
const reference = byId("reference");

/** Of the served model; null where the server does not say, or not to us. */
async function servedModel() {
  try {
    return (await getJson("v1/models", { signal: AbortSignal.timeout(PATIENCE_MS) })).data[0].id;
  } catch {
    return null;
  }
}

/** The document, with what it cannot know itself. */
async function specification() {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const text = await answer.text();
  const said = JSON.parse(text)["x-placeholders"];
  const model = (await servedModel()) ?? said.model;
  const put = (place, value) => [place, () => JSON.stringify(value).slice(1, -1)];
  return { ...JSON.parse(text.replaceAll(...put(said.here, base)).replaceAll(...put(said.model, model))), servers: [{ url: base }] };
}

/** Swagger UI has colours for the dark, under a class. */
function followTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => root.classList.toggle("dark-mode", (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark");
  system.addEventListener("change", follow);
  new MutationObserver(follow).observe(root, { attributeFilter: ["data-theme"] });
  follow();
}

function draw(spec) {
  const ui = SwaggerUIBundle({
    spec,
    domNode: reference,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    defaultModelExpandDepth: 3,
    defaultModelRendering: "model",
    displayRequestDuration: true,
    syntaxHighlight: false, // in colours that are hard to read
    tryItOutEnabled: true,
    showMutatedRequest: false, // it has the key
    requestInterceptor: (request) => ({ ...request, headers: { ...request.headers, ...credentials() } }),
    plugins: [codeSamples, outline],
    onComplete: () => begin(ui),
  });

  function begin({ layoutActions }) {
    const contents = byId("contents");
    const isNarrow = matchMedia("(max-width: 60rem)");
    const arrive = () => {
      const route = routes.find(({ link }) => new URL(link, location.href).hash === location.hash);
      if (!route) return false;
      layoutActions.show(["operations-tag", route.section], true);
      layoutActions.show(["operations", route.section, route.id], true);
      contents.open = !isNarrow.matches;
      requestAnimationFrame(() => reference.querySelector(`[id$="-${CSS.escape(route.id)}"]`)?.scrollIntoView());
      return true;
    };
    const routes = showContents(byId("sections"), spec);
    layoutActions.show(["operations-tag", spec.tags.at(-1).name], false); // half of all routes, which few people need
    contents.open = !isNarrow.matches;
    if (!arrive()) layoutActions.show(["operations", routes[0].section, routes[0].id], true);
    addEventListener("hashchange", arrive);
    isNarrow.addEventListener("change", () => (contents.open = !isNarrow.matches));
  }
}

followTheme();
await new Account({ target: "/docs", onChange: () => {} }).begin();
try {
  draw(await specification());
} catch (error) {
  reference.firstElementChild.textContent = `The OpenAPI document could not be read: ${error.message}`;
}
