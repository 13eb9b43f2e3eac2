// Puts the page together: what the user does becomes a request, what comes back becomes ghost text and results.

import { Account } from "./account.js";
import { texts } from "./alternatives.js";
import { ApiError, explain } from "./api.js";
import { Completion } from "./completion.js";
import { announce, byId, debounce, eachFrame, tabs } from "./dom.js";
import { keepDraft, recallDraft } from "./draft.js";
import { createEditor } from "./editor.js";
import { examples } from "./examples.js";
import { acceptAll, acceptWord, beginGhost, dropGhost, ghostText, growGhost, hasGhost, wholeGhost } from "./ghost.js";
import { languages } from "./languages.js";
import { clearNotice, showNotice } from "./notice.js";
import { buildParameters } from "./parameter_form.js";
import { forgetPast, remember, showPast } from "./past.js";
import { showPrompt } from "./prompt_view.js";
import { Refactoring, renderRefactoring } from "./refactoring.js";
import { addFile, completionBody, files, parameters, refactorBody, replaceFiles, restoreParameters } from "./request.js";
import { clearOutput, endingOf, hideOutput, renderChoices, showFigures } from "./results.js";
import { Server } from "./server.js";
import { fromFragment } from "./share.js";
import { share } from "./share_dialog.js";
import { createSnippetView, offerSnippets } from "./snippet_view.js";
import { createBar, Suggestions } from "./suggestions.js";

const TYPING_PAUSE = 150; // ms without a key before a suggestion is asked for

const session = crypto.getRandomValues(new Uint32Array(4)).join("-");
const form = byId("parameters");
buildParameters(form);
let task = "complete";
let running = null; // Completion or Refactoring
let replaced = null; // what the page held before an example or the history came over it
let quietUntil = 0; // typing asks for nothing before this time

const keys = {
  "Mod-Enter": () => (run(), true),
  Escape: () => escape(),
  "Alt-]": () => suggestions.cycle(1),
  "Alt-[": () => suggestions.cycle(-1),
  "Mod-z": () => bringBack(),
};
const editor = createEditor(byId("editor"), { keys, onUpdate, onGhostGone: () => running?.abort() });
const { view } = editor;

const suggestions = new Suggestions(view, {
  insert: (text) => insert(text),
  async follow(completion) {
    if (running !== null) return false;
    await follow(completion, () => completion.run(() => {}));
    return !completion.aborted && !completion.failed;
  },
});
createBar({
  accept: () => (acceptAll(view), view.focus()),
  word: () => (acceptWord(view), view.focus()),
  previous: () => suggestions.cycle(-1),
  next: () => suggestions.cycle(1),
  dismiss: () => (escape(), view.focus()),
});

const server = new Server({
  onFound() {
    clearNotice("unreachable");
    clearNotice("unauthorized");
    refresh();
  },
  onFailed: serverFailed,
});

function serverFailed(error) {
  if (error.kind === "unauthorized") account.refused();
  server.lookAgain(error);
  showProblem(error);
}

const ACTIONS = {
  retry: { label: "Try again", act: () => run() },
  truncate: { label: "Cut it to fit", act: () => ((form.elements.truncate.checked = true), run()) },
  key: { label: "Enter a key", act: () => account.enterKey() },
};

function showProblem(error) {
  const { title, detail, action } = explain(error);
  showNotice({ kind: error.kind, title, detail, action: ACTIONS[action] ?? null });
}

const showEmpty = (title, detail) => showNotice({ kind: "empty", tone: "plain", title, detail });

// Requests

const language = () => byId("language").value;
const body = (typing = false) => completionBody({ model: server.model?.id, language: language(), ...editor.parts(), typing });

function refactoringBody() {
  const { selected } = editor.parts();
  const code = selected || view.state.doc.toString();
  return refactorBody({ model: server.model?.id, language: language(), code, instruction: byId("instruction").value.trim() });
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
  completion.before = currentState();
  beginGhost(view);
  suggestions.begin(completion);
  await follow(completion, () =>
    completion.run((choice, text) => {
      if (choice.index === 0 && running === completion) growGhost(view, text);
      update(completion);
    }),
  );
  if (running !== null || suggestions.completion !== completion) return; // a newer one took over
  if (completion.aborted && !typing) return;
  suggestions.end();
  if (!typing && !completion.failed) conclude(completion);
  if (ghostText(view)) suggestions.announce();
  else dropGhost(view);
}

/** Of a completion that somebody asked for by hand. */
function conclude(completion) {
  const found = texts(completion.choices);
  noteOnce(completion, found);
  if (found.length) return;
  const [choice] = completion.choices;
  hideOutput();
  showEmpty("The model adds nothing here.", `It was asked, and gave no text (${endingOf(choice)}). Try another place, or more temperature.`);
}

async function refactor() {
  if (!byId("instruction").value.trim()) {
    byId("instruction").focus();
    announce("Write an instruction first.");
    return;
  }
  stop();
  const asked = currentState();
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
  if (!refactoring.finishReason) return;
  announce("The refactoring is done.");
  note(asked, [refactoring.diff || refactoring.code]);
  if (refactoring.diff === "") showEmpty("The model changes nothing.", "The new code is the old one. Say in other words what is to change.");
}

/** Keeps the page in step with one request from its start to its end. */
async function follow(request, start) {
  running = request;
  byId("stop").hidden = request.typing === true;
  showFigures(request, server.model?.max_model_len);
  if (!request.typing) clearNotice();
  try {
    await start();
    if (request.ttft !== null) clearNotice();
    if (!request.aborted && !server.ready) server.find();
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
  showFigures(request, server.model?.max_model_len);
  if (request.failed && request.ttft === null) hideOutput();
  else if (request instanceof Refactoring) renderRefactoring(request, request.apply);
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
  noteOnce(suggestions.completion, [text]);
  const { head } = editor.parts();
  view.dispatch({ changes: { from: head, insert: text }, selection: { anchor: head + text.length }, userEvent: "input.choice" });
  view.focus();
}

// As-you-type

const suggest = debounce(() => {
  // A widget in the middle of an input method's composition would end it.
  if (performance.now() < quietUntil || document.visibilityState === "hidden" || view.composing) return;
  if (view.state.selection.main.empty && view.hasFocus && form.checkValidity()) complete(true);
}, TYPING_PAUSE);

function onUpdate(update) {
  suggestions.show();
  if (update.transactions.some((one) => one.isUserEvent("input.complete"))) noteOnce(suggestions.completion, [wholeGhost(update.startState)]);
  if (update.docChanged) {
    const typed = update.transactions.some((one) => one.isUserEvent("input") || one.isUserEvent("delete"));
    suggest.cancel();
    if (typed) forgetReplaced();
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
  if (shownView.id === "view-past") showPast(replaceState);
}, 120);

const showSnippet = createSnippetView({
  current: () => (task === "refactor" ? { path: "v1/refactor", body: refactoringBody() } : { path: "v1/completions", body: body() }),
  served: () => ({ withKey: account.known, window: server.model?.max_model_len ?? 0 }),
});

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
  clearNotice();
  clearOutput();
  offerSnippets(task);
  selectView(byId("view-output-tab"));
});
const setTask = (name) => selectTask(byId(`task-${name}`));

function setLanguage(name) {
  byId("language").value = name in languages ? name : "plaintext";
  editor.setLanguage(byId("language").value);
}

function showState({ code, cursor, language: name, task: wanted = "complete", instruction = "", files: list = [], parameters: values = {} }, asFirst = false) {
  setTask(wanted);
  setLanguage(name);
  byId("instruction").value = instruction;
  replaceFiles(list);
  restoreParameters(values);
  editor.setDocument(code, cursor, asFirst);
  refresh();
}

/** In place of what somebody may still want: it can be brought back. */
function replaceState(state) {
  const before = currentState();
  showState(state);
  replaced = before;
  byId("undo").hidden = false;
  announce("The editor holds something else now. Undo brings back what was there.");
  view.focus();
}

/** Whether there was something to bring back. */
function bringBack() {
  if (replaced === null) return false;
  const before = replaced;
  forgetReplaced();
  showState(before);
  view.focus();
  return true;
}

function forgetReplaced() {
  replaced = null;
  byId("example").value = ""; // so that the same one can be chosen again
  byId("undo").hidden = true;
}

const toState = ({ path, repository = "", ...example }) => ({ ...example, parameters: { path, repository } });

byId("language").append(...Object.entries(languages).map(([name, { label }]) => new Option(label, name)));
byId("example").append(new Option("choose …", ""), ...examples.map(({ title }, i) => new Option(title, i)));
byId("language").addEventListener("change", () => (setLanguage(language()), refresh()));
byId("example").addEventListener("change", ({ target }) => target.value && replaceState(toState(examples[target.value])));
byId("undo").addEventListener("click", bringBack);
byId("forget-past").addEventListener("click", () => (forgetPast(), showPast(replaceState), view.focus()));
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

byId("share").addEventListener("click", () => share(currentState()));

async function openLink(show) {
  try {
    const state = await fromFragment(location.hash);
    if (state) show(state);
  } catch {
    showProblem(new ApiError("link", ""));
  }
}

addEventListener("hashchange", () => openLink(replaceState));
addEventListener("pagehide", () => keepDraft(currentState()));

// History

/** What was asked for by hand, and the suggestions that were taken. */
function note(state, found) {
  remember(state, found);
  refresh();
}

function noteOnce(completion, found) {
  if (completion.before) note(completion.before, found);
  completion.before = null;
}

// Begin

const account = new Account({ target: "/", onChange: () => (server.find(), refresh()) });
const draft = recallDraft();
showState(draft ?? toState(examples[0]), true);
if (!draft) await openLink(showState);
await account.begin();
server.find();
if (matchMedia("(pointer: fine)").matches && !document.querySelector("dialog[open]")) view.focus();
