// The editor: CodeMirror in a shadow root, where its styles are constructed style sheets and need no inline styles,
// which the page's policy forbids.

import {
  bracketMatching,
  closeBracketsKeymap,
  Compartment,
  defaultKeymap,
  drawSelection,
  EditorState,
  EditorView,
  highlightActiveLine,
  highlightActiveLineGutter,
  HighlightStyle,
  history,
  historyKeymap,
  indentLess,
  indentMore,
  indentOnInput,
  indentUnit,
  keymap,
  lineNumbers,
  Prec,
  syntaxHighlighting,
  tags,
  Transaction,
} from "./codemirror.js";
import { ghost } from "./ghost.js";
import { languageSupport } from "./languages.js";
import { typing } from "./typing.js";

const theme = EditorView.theme({
  "&": { height: "100%", fontSize: "13px", color: "var(--text)", backgroundColor: "var(--surface)" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.6" },
  ".cm-content": { padding: "8px 0", caretColor: "var(--text)" },
  ".cm-line": { padding: "0 12px 0 6px" },
  ".cm-gutters": { backgroundColor: "var(--surface)", color: "var(--dim)", border: "none", paddingLeft: "4px" },
  ".cm-activeLine": { backgroundColor: "color-mix(in oklab, var(--raised) 55%, transparent)" },
  ".cm-activeLineGutter": { backgroundColor: "transparent", color: "var(--text)" },
  ".cm-cursor": { borderLeftColor: "var(--text)", borderLeftWidth: "2px" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    background: "color-mix(in oklab, var(--accent) 25%, transparent)",
  },
  "&.cm-focused .cm-matchingBracket": { backgroundColor: "color-mix(in oklab, var(--accent) 22%, transparent)" },
});

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier, tags.controlKeyword], color: "var(--code-keyword)" },
  { tag: [tags.string, tags.special(tags.string), tags.regexp, tags.character], color: "var(--code-string)" },
  { tag: [tags.number, tags.bool, tags.null, tags.atom], color: "var(--code-number)" },
  { tag: [tags.comment, tags.meta], color: "var(--code-comment)", fontStyle: "italic" },
  { tag: [tags.definition(tags.variableName), tags.function(tags.variableName), tags.typeName, tags.className, tags.standard(tags.name)], color: "var(--code-name)" },
]);

function indent(view) {
  if (!view.state.selection.main.empty) return indentMore(view);
  view.dispatch(view.state.replaceSelection(view.state.facet(indentUnit)), { userEvent: "input", scrollIntoView: true });
  return true;
}

/**
 * @param host an element, which gets a shadow root
 * @param keys key names of CodeMirror to what they do, which says whether it did something
 * @param onUpdate told of every update; onGhostGone: when a suggestion ends
 */
export function createEditor(host, { keys, onUpdate, onGhostGone }) {
  const root = host.attachShadow({ mode: "open" });
  const language = new Compartment();
  const view = new EditorView({
    root,
    parent: root,
    state: EditorState.create({
      extensions: [
        Prec.highest(keymap.of(Object.entries(keys).map(([key, run]) => ({ key, run })))),
        typing,
        ghost({ onGone: onGhostGone }),
        lineNumbers(),
        highlightActiveLine(),
        highlightActiveLineGutter(),
        history(),
        drawSelection(),
        bracketMatching(),
        indentOnInput(),
        language.of(languageSupport("python")),
        syntaxHighlighting(colours),
        keymap.of([...closeBracketsKeymap, ...defaultKeymap, ...historyKeymap, { key: "Tab", run: indent, shift: indentLess }]),
        EditorView.contentAttributes.of({ "aria-label": "Code editor", "aria-multiline": "true", spellcheck: "false" }),
        theme,
        EditorView.updateListener.of(onUpdate),
      ],
    }),
  });
  return {
    view,
    setLanguage: (name) => view.dispatch({ effects: language.reconfigure(languageSupport(name)) }),
    /** asFirst: there was none before, which undoing would bring back. */
    setDocument(code, cursor = code.length, asFirst = false) {
      view.dispatch({
        annotations: Transaction.addToHistory.of(!asFirst),
        changes: { from: 0, to: view.state.doc.length, insert: code },
        selection: { anchor: Math.min(cursor, code.length) },
        scrollIntoView: true,
      });
    },
    /** The text before the cursor, the text after it, and the selection. */
    parts() {
      const { doc, selection } = view.state;
      const { from, to, head } = selection.main;
      return { before: doc.sliceString(0, head), after: doc.sliceString(head), selected: doc.sliceString(from, to), from, to, head };
    },
  };
}
