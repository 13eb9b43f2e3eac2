// What typing does beside putting in what was typed: brackets and quotes are closed, unless a suggestion says how it
// goes on.

import { closeBrackets, EditorView, insertBracket, Prec } from "./codemirror.js";
import { ghostText } from "./ghost.js";

function put(view, from, to, text) {
  view.dispatch({ changes: { from, to, insert: text }, selection: { anchor: from + text.length }, userEvent: "input.type", scrollIntoView: true });
  return true;
}

/** What the suggestion says keeps it; a bracket closed by itself would end it. */
const asSuggested = EditorView.inputHandler.of((view, from, to, text) => {
  const { ranges, main } = view.state.selection;
  const next = ranges.length === 1 && main.empty && from === main.head && to === from;
  return next && ghostText(view).startsWith(text) && put(view, from, to, text);
});

/**
 * Typing over a selection, done here: Chromium's own editing would keep the look of the first replaced character in
 * an inline style, and report that the page's policy forbids it.
 */
const overSelection = EditorView.domEventHandlers({
  beforeinput(event, view) {
    const { ranges, main } = view.state.selection;
    if (event.inputType !== "insertText" || !event.data || event.isComposing || main.empty || ranges.length > 1) return false;
    event.preventDefault();
    const around = insertBracket(view.state, event.data);
    if (around) view.dispatch(around);
    else put(view, main.from, main.to, event.data);
    return true;
  },
});

export const typing = [overSelection, Prec.high(asSuggested), closeBrackets()];
