// What the playground uses of CodeMirror. `npm run build` writes it, minified, to ../static/codemirror.js.

export { closeBrackets, closeBracketsKeymap, insertBracket } from "@codemirror/autocomplete";
export { defaultKeymap, history, historyKeymap, indentLess, indentMore } from "@codemirror/commands";
export {
  bracketMatching,
  HighlightStyle,
  indentOnInput,
  indentUnit,
  StreamLanguage,
  syntaxHighlighting,
} from "@codemirror/language";
export { c, cpp, csharp, java, kotlin, scala } from "@codemirror/legacy-modes/mode/clike";
export { go } from "@codemirror/legacy-modes/mode/go";
export { javascript, typescript } from "@codemirror/legacy-modes/mode/javascript";
export { lua } from "@codemirror/legacy-modes/mode/lua";
export { python } from "@codemirror/legacy-modes/mode/python";
export { ruby } from "@codemirror/legacy-modes/mode/ruby";
export { rust } from "@codemirror/legacy-modes/mode/rust";
export { shell } from "@codemirror/legacy-modes/mode/shell";
export { standardSQL } from "@codemirror/legacy-modes/mode/sql";
export { swift } from "@codemirror/legacy-modes/mode/swift";
export { Annotation, Compartment, EditorSelection, EditorState, Prec, StateEffect, StateField, Transaction } from "@codemirror/state";
export {
  Decoration,
  drawSelection,
  EditorView,
  highlightActiveLine,
  highlightActiveLineGutter,
  keymap,
  lineNumbers,
  WidgetType,
} from "@codemirror/view";
export { tags } from "@lezer/highlight";
