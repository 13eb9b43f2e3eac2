// Puts the page together: what the user does becomes a request, what comes back becomes ghost text and results.

import { hasKey } from "./access.js";
import { Account } from "./account.js";
import { ApiError, explain, getJson } from "./api.js";
import { Completion } from "./completion.js";
import { announce, byId, debounce, eachFrame, tabs } from "./dom.js";
import { createEditor } from "./editor.js";
import { examples } from "./examples.js";
import { beginGhost, dropGhost, ghostText, growGhost, hasGhost } from "./ghost.js";
import { languages } from "./languages.js";
import { showPrompt } from "./prompt_view.js";
import { Refactoring, renderRefactoring } from "./refactoring.js";
import { addFile, completionBody, files, parameters, refactorBody, replaceFiles, restoreParameters } from "./request.js";
import { clearOutput, renderChoices, showChoices, showFigures } from "./results.js";
import { fromFragment, keepDraft, takeDraft, toFragment } from "./share.js";
import { snippets } from "./snippets.js";

const TYPING_PAUSE = 150; // ms without a key before a suggestion is asked for
const POLL = 2000; // ms between looks for a server that is down

const session = crypto.getRandomValues(new Uint32Array(4)).join("-");
const form = byId("parameters");
let model = null; // {id, max_model_len}, once known
let task = "complete";
let running = null; // Completion or Refactoring
let quietUntil = 0; // typing asks for nothing before this time
let poll = 0;

const editor = createEditor(byId("editor"), { run: () => run(), escape, onUpdate, onGhostGone: () => running?.abort() });
const { view } = editor;

// The server

async function findModel() {
  clearTimeout(poll);
  try {
    [model] = (await getJson("v1/models")).data;
    serverState("ready", `${model.id} · window of ${model.max_model_len.toLocaleString("en")} tokens`);
    clearProblem("unreachable");
    clearProblem("unauthorized");
    refresh();
  } catch (error) {
    serverFailed(error);
  }
}

function serverState(state, text) {
  byId("server").dataset.state = state;
  byId("server-text").textContent = text;
}

function serverFailed(error) {
  if (error.kind === "unauthorized") account.refused();
  if (error.kind === "unreachable" || (model === null && error.kind !== "unauthorized")) {
    serverState("down", error.kind === "unreachable" ? "Server down" : "Model not available");
    clearTimeout(poll);
    poll = setTimeout(findModel, POLL);
  }
  showProblem(error);
}

// Problems

const ACTIONS = {
  retry: ["Try again", () => run()],
  truncate: ["Cut it to fit", () => ((form.elements.truncate.checked = true), run())],
  key: ["Enter a key", () => account.enterKey()],
};
let problem = null;
let problemAction = null;

function showProblem(error) {
  const { title, detail, action } = explain(error);
  problem = error.kind;
  byId("problem-title").textContent = title;
  byId("problem-detail").textContent = detail;
  const [label, act] = ACTIONS[action] ?? [null, null];
  byId("problem-action").hidden = !label;
  byId("problem-action").textContent = label ?? "";
  problemAction = act;
  byId("problem").hidden = false;
}

function clearProblem(kind = problem) {
  if (kind !== problem) return;
  problem = null;
  byId("problem").hidden = true;
}

byId("problem-action").addEventListener("click", () => problemAction?.());

// Requests

const language = () => byId("language").value;
const body = (typing = false) => completionBody({ model: model?.id, language: language(), ...editor.parts(), typing });

function refactoringBody() {
  const { selected } = editor.parts();
  const code = selected || view.state.doc.toString();
  return refactorBody({ model: model?.id, language: language(), code, instruction: byId("instruction").value.trim() });
}

/** What the button and Ctrl-Enter do. */
function run() {
  if (!form.reportValidity()) return;
  quietUntil = 0;
  if (task === "refactor") refactor();
  else complete(false);
}

async function complete(typing) {
  suggest.cancel();
  stop();
  if (!typing) view.dispatch({ selection: { anchor: view.state.selection.main.head } });
  dropGhost(view);
  const completion = new Completion(body(typing), { session: typing ? session : null });
  completion.typing = typing;
  beginGhost(view);
  showChoices(completion, (choice) => insert(choice.text));
  await follow(completion, () =>
    completion.run((choice, text) => {
      if (choice.index === 0 && running === completion) growGhost(view, text);
      update(completion);
    }),
  );
  if (running !== null) return; // a newer one took over
  if (completion.aborted && !typing) return;
  const text = ghostText(view);
  if (text) announce(`Suggestion: ${text.trim().slice(0, 300)}. Tab accepts it.`);
  else dropGhost(view);
}

async function refactor() {
  if (!byId("instruction").value.trim()) {
    byId("instruction").focus();
    announce("Write an instruction first.");
    return;
  }
  stop();
  const { from, to } = editor.parts();
  const before = view.state.doc;
  const range = from === to ? { from: 0, to: before.length } : { from, to };
  const refactoring = new Refactoring(refactoringBody());
  const apply = () => {
    if (view.state.doc !== before) return announce("The code has changed since; run the refactoring again.");
    view.dispatch({ changes: { ...range, insert: refactoring.code }, userEvent: "input.refactor" });
    view.focus();
  };
  refactoring.apply = apply;
  renderRefactoring(refactoring, apply);
  await follow(refactoring, () => refactoring.run(() => update(refactoring)));
  if (refactoring.finishReason) announce("The refactoring is done.");
}

/** Keeps the page in step with one request from its start to its end. */
async function follow(request, start) {
  running = request;
  byId("stop").hidden = request.typing === true;
  showFigures(request, model?.max_model_len);
  if (!request.typing) clearProblem();
  try {
    await start();
    if (request.ttft !== null) clearProblem();
    if (!request.aborted && byId("server").dataset.state !== "ready") findModel();
  } catch (error) {
    if (running === request || running === null) {
      request.failed = true;
      dropGhost(view);
      // A suggestion nobody asked for by hand waits until the server has room again.
      if (request.typing) quietUntil = performance.now() + 1000 * (error.retryAfter ?? 2);
      serverFailed(error);
    }
  } finally {
    if (running === request) {
      running = null;
      byId("stop").hidden = true;
    }
    update(request);
  }
}

/** The newest request on the page; an older one that is being given up no longer is. */
const update = eachFrame((request) => {
  if (running !== null && running !== request) return;
  showFigures(request, model?.max_model_len);
  if (request instanceof Refactoring) renderRefactoring(request, request.apply);
  else renderChoices(request);
});

function stop() {
  running?.abort();
  running = null;
  byId("stop").hidden = true;
}

function escape() {
  suggest.cancel();
  const busy = running !== null || hasGhost(view);
  stop();
  dropGhost(view);
  return busy;
}

function insert(text) {
  escape();
  const { head } = editor.parts();
  view.dispatch({ changes: { from: head, insert: text }, selection: { anchor: head + text.length }, userEvent: "input.complete" });
  view.focus();
}

// As-you-type

const suggest = debounce(() => {
  // A widget in the middle of an input method's composition would end it.
  if (performance.now() < quietUntil || document.visibilityState === "hidden" || view.composing) return;
  if (view.state.selection.main.empty && view.hasFocus && form.checkValidity()) complete(true);
}, TYPING_PAUSE);

function onUpdate(update) {
  if (update.docChanged) {
    const typed = update.transactions.some((one) => one.isUserEvent("input") || one.isUserEvent("delete"));
    suggest.cancel();
    if (typed && task === "complete" && byId("as-you-type").checked && !(running && hasGhost(view)) && !ghostText(view)) suggest();
    refresh();
  } else if (update.selectionSet) {
    suggest.cancel();
    refresh();
  }
}

// Exact prompt and code of the request

const shownView = { id: "view-output" };

const refresh = debounce(() => {
  if (shownView.id === "view-prompt") showPrompt(body());
  if (shownView.id === "view-request") showSnippet();
}, 120);

function showSnippet() {
  const kind = snippets[byId("snippet-kind").value] ?? snippets.curl;
  const [path, current] = task === "refactor" ? ["v1/refactor", refactoringBody()] : ["v1/completions", body()];
  const origin = new URL(".", document.baseURI).href.replace(/\/$/, "");
  byId("snippet").textContent = kind.write({ origin, path, body: current, withKey: account.known });
  byId("snippet-note").textContent = account.known ? `The key is not in it: set the variable, or put it in where it says YOUR_KEY.${hasKey() ? "" : " The page “Teams” makes you one."}` : "";
}

function offerSnippets() {
  const options = Object.entries(snippets)
    .filter(([, { task: only }]) => !only || only === task)
    .map(([name, { label }]) => new Option(label, name));
  const before = byId("snippet-kind").value;
  byId("snippet-kind").replaceChildren(...options);
  if (options.some((option) => option.value === before)) byId("snippet-kind").value = before;
}

byId("snippet-kind").addEventListener("change", showSnippet);
byId("snippet-copy").addEventListener("click", async (event) => {
  const copied = await copy(byId("snippet").textContent);
  event.target.textContent = copied ? "Copied" : "Not allowed here";
  announce(event.target.textContent);
  setTimeout(() => (event.target.textContent = "Copy"), 1500);
});

const copy = (text) => navigator.clipboard?.writeText(text).then(() => true, () => false) ?? false;

// Tasks, views, language, examples

const selectView = tabs(byId("views"), (tab) => {
  shownView.id = tab.getAttribute("aria-controls");
  for (const panel of document.querySelectorAll('.results > [role="tabpanel"]')) panel.hidden = panel.id !== shownView.id;
  refresh();
});

const selectTask = tabs(byId("tasks"), (tab) => {
  escape();
  task = tab.dataset.task;
  byId("work").setAttribute("aria-labelledby", tab.id);
  for (const node of document.querySelectorAll("[data-for]")) node.hidden = node.dataset.for !== task;
  byId("run-text").textContent = task === "refactor" ? "Refactor" : "Complete";
  clearProblem();
  clearOutput();
  offerSnippets();
  selectView(byId("view-output-tab"));
});
const setTask = (name) => selectTask(byId(`task-${name}`));

function setLanguage(name) {
  byId("language").value = name in languages ? name : "plaintext";
  editor.setLanguage(byId("language").value);
}

function showState({ code, cursor, language: name, task: wanted = "complete", instruction = "", files: list = [], parameters: values = {} }) {
  setTask(wanted);
  setLanguage(name);
  byId("instruction").value = instruction;
  replaceFiles(list);
  restoreParameters(values);
  editor.setDocument(code, cursor);
  refresh();
}

const showExample = ({ path, repository = "", ...example }) => showState({ ...example, parameters: { path, repository } });

byId("language").append(...Object.entries(languages).map(([name, { label }]) => new Option(label, name)));
byId("example").append(new Option("choose …", ""), ...examples.map(({ title }, i) => new Option(title, i)));
byId("language").addEventListener("change", () => (setLanguage(language()), refresh()));
byId("example").addEventListener("change", ({ target }) => target.value && showExample(examples[target.value]));
byId("as-you-type").addEventListener("change", escape);
byId("run").addEventListener("click", () => (run(), view.focus()));
byId("stop").addEventListener("click", () => (escape(), view.focus()));
byId("add-file").addEventListener("click", () => addFile().focus());
form.addEventListener("input", refresh);
form.addEventListener("submit", (event) => event.preventDefault());
byId("instruction").addEventListener("input", refresh);
byId("instruction").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  run();
});
addEventListener("keydown", (event) => {
  if (event.defaultPrevented) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  else if (event.key === "Escape" && running) escape();
});

// Sharing

const currentState = () => ({
  code: view.state.doc.toString(),
  cursor: view.state.selection.main.head,
  language: language(),
  task,
  instruction: byId("instruction").value,
  files: files(),
  parameters: parameters(),
});

byId("share").addEventListener("click", async () => {
  const fragment = await toFragment(currentState());
  byId("share-note").textContent = fragment
    ? `${(await copy(new URL(fragment, location.href).href)) ? "The link is copied. " : ""}It holds the code and the parameters in its last part, which browsers send to no server. Your key is not in it.`
    : "This is too much for a link: take out code or context files.";
  byId("share-link").hidden = !fragment;
  if (fragment) {
    history.replaceState(null, "", fragment);
    byId("share-link").value = location.href;
  }
  byId("share-dialog").showModal();
  if (fragment) byId("share-link").select();
});

async function openLink() {
  try {
    const state = await fromFragment(takeDraft() || location.hash);
    if (state) showState(state);
  } catch {
    showProblem(new ApiError("link", ""));
  }
}

addEventListener("hashchange", openLink);
// Accounts

const account = new Account({ target: "/", keepDraft: async () => keepDraft(await toFragment(currentState())), onChange: () => (findModel(), refresh()) });

showExample(examples[0]);
await openLink();
await account.begin();
findModel();
