// Ghost text: a suggestion at the cursor that is not in the document until it is accepted.
//
// The suggestion grows while it streams, and shrinks from its start while the user types what it says.

import { Decoration, EditorView, keymap, Prec, StateEffect, StateField, WidgetType } from "./codemirror.js";

const offer = StateEffect.define(); // {at, text, taken}, or null
const grow = StateEffect.define(); // more text, for the suggestion that is there
const swap = StateEffect.define(); // another text, which begins as what was taken of the one that is there

/** One word with the white space before it; line ends count as white space. */
const WORD = /^\s*(?:[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]+|$)/u;

class GhostWidget extends WidgetType {
  constructor(text) {
    super();
    this.text = text;
  }
  eq(other) {
    return other.text === this.text;
  }
  toDOM() {
    const node = document.createElement("span");
    node.className = "cm-ghost";
    node.setAttribute("aria-hidden", "true"); // announced apart, once and whole
    node.textContent = this.text;
    return node;
  }
  updateDOM(node) {
    node.textContent = this.text;
    return true;
  }
  ignoreEvent() {
    return false;
  }
}

const field = StateField.define({
  create: () => null,
  update(ghost, transaction) {
    if (ghost && transaction.docChanged) ghost = typedAhead(ghost, transaction);
    else if (ghost && transaction.selection && !isAt(transaction.state, ghost.at)) ghost = null;
    for (const effect of transaction.effects) {
      if (effect.is(offer)) ghost = effect.value;
      else if (effect.is(grow) && ghost) ghost = { ...ghost, text: ghost.text + effect.value };
      else if (effect.is(swap) && ghost) ghost = { ...ghost, text: effect.value };
    }
    return ghost;
  },
  provide: (self) =>
    EditorView.decorations.from(self, (ghost) => {
      const text = visible(ghost);
      return text ? Decoration.set(Decoration.widget({ widget: new GhostWidget(text), side: 1 }).range(ghost.at)) : Decoration.none;
    }),
});

const rest = (ghost) => (ghost ? ghost.text.slice(ghost.taken) : "");
/** White space alone is no suggestion: there is nothing to see, and Tab indents. */
const visible = (ghost) => (rest(ghost).trim() ? rest(ghost) : "");
const isAt = (state, place) => state.selection.main.empty && state.selection.main.head === place;

/** The suggestion after a change of the document: shorter if the change is its own start, else gone. */
function typedAhead(ghost, transaction) {
  let changes = 0;
  let inserted = "";
  transaction.changes.iterChanges((from, to, _from, _to, text) => {
    changes += from === ghost.at && to === ghost.at ? 1 : 2;
    inserted = text.toString();
  });
  if (changes !== 1 || !inserted || !rest(ghost).startsWith(inserted)) return null;
  return { ...ghost, at: ghost.at + inserted.length, taken: ghost.taken + inserted.length };
}

function accept(view, piece) {
  const ghost = view.state.field(field);
  const text = piece(visible(ghost));
  if (!text) return false;
  const at = ghost.at + text.length;
  const left = { ...ghost, at, taken: ghost.taken + text.length };
  view.dispatch({
    changes: { from: ghost.at, insert: text },
    selection: { anchor: at },
    effects: offer.of(visible(left) ? left : null),
    userEvent: "input.complete",
    scrollIntoView: true,
  });
  return true;
}

export const acceptAll = (view) => accept(view, (text) => text);
export const acceptWord = (view) => accept(view, (text) => WORD.exec(text)?.[0] ?? "");

export const ghostText = (view) => visible(view.state.field(field));
/** The suggestion as it came, and what of it stands in the document already; empty where there is none. */
export const wholeGhost = (state) => state.field(field)?.text ?? "";
export const takenGhost = (state) => wholeGhost(state).slice(0, state.field(field)?.taken ?? 0);
export const hasGhost = (view) => view.state.field(field) !== null;

/** Begin a suggestion at the cursor, empty as yet. */
export const beginGhost = (view) => view.dispatch({ effects: offer.of({ at: view.state.selection.main.head, text: "", taken: 0 }) });
export const growGhost = (view, text) => text && view.dispatch({ effects: grow.of(text) });
export const swapGhost = (view, text) => view.dispatch({ effects: swap.of(text) });
export const dropGhost = (view) => hasGhost(view) && view.dispatch({ effects: offer.of(null) });

/** A tap takes it, but for one that ends a scroll, which cannot be cancelled. */
const tap = EditorView.domEventHandlers({
  touchend: (event, view) => event.cancelable && Boolean(event.target.closest(".cm-ghost")) && acceptAll(view),
});

/** onGone is told when a suggestion ends, however it does. */
export function ghost({ onGone }) {
  return [
    field,
    tap,
    Prec.highest(
      keymap.of([
        { key: "Tab", run: acceptAll },
        { key: "Ctrl-ArrowRight", run: acceptWord },
        { mac: "Alt-ArrowRight", run: acceptWord },
      ]),
    ),
    EditorView.updateListener.of((update) => {
      if (update.startState.field(field) && !update.state.field(field)) onGone();
    }),
    EditorView.baseTheme({
      ".cm-ghost": { color: "var(--ghost)", fontStyle: "italic", whiteSpace: "pre" },
    }),
  ];
}
