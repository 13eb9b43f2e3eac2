// Refactoring: the new code as it streams, then the diff.

import { byId, element } from "./dom.js";
import { Streamed } from "./streamed.js";

export class Refactoring extends Streamed {
  constructor(body) {
    super("v1/refactor", body);
    this.code = "";
    this.diff = null;
    this.finishReason = null;
  }

  /** onChange() whenever there is more. Resolves at the end or when aborted; throws ApiError. */
  run(onChange) {
    return this.follow((chunk) => {
      this.noteText();
      this.code += chunk.code;
      if (chunk.finish_reason) Object.assign(this, { diff: chunk.diff, usage: chunk.usage, finishReason: chunk.finish_reason });
      onChange();
    });
  }

  get generated() {
    return this.usage?.completion_tokens ?? null;
  }

  get speed() {
    return this.rate((this.generated ?? 0) - 1);
  }
}

/** Show it; onApply() when the new code is to replace the old. */
export function renderRefactoring(refactoring, onApply) {
  const box = byId("refactoring");
  byId("no-output").hidden = true;
  byId("choices").replaceChildren();
  box.hidden = false;
  const row = element("div", "row");
  row.append(element("p", "note", summary(refactoring)), element("span", "spacer"));
  if (refactoring.finishReason) {
    const apply = row.appendChild(element("button", "", "Apply to the editor"));
    apply.type = "button";
    apply.disabled = refactoring.diff === "";
    apply.addEventListener("click", onApply);
  }
  box.replaceChildren(row, refactoring.diff ? diffView(refactoring.diff) : codeView(refactoring.code));
}

function summary({ running, failed, finishReason, diff }) {
  if (running) return "Streaming the new code …";
  if (!finishReason) return failed ? "Broke off." : "Stopped.";
  if (diff === null) return "Too long to compare; this is the new code.";
  const lines = diff.split("\n");
  const count = (sign) => lines.filter((line) => line.startsWith(sign) && !line.startsWith(sign.repeat(3))).length;
  const added = count("+");
  const change = diff ? `${added} ${added === 1 ? "line" : "lines"} added, ${count("-")} removed` : "Nothing changed";
  return finishReason === "length" ? `${change}; the new code is cut off.` : `${change}.`;
}

function codeView(code) {
  const node = element("pre", "", code);
  node.tabIndex = 0;
  node.setAttribute("role", "group");
  node.setAttribute("aria-label", "The new code");
  return node;
}

const KINDS = { "+": "added", "-": "removed", "@": "place", "\\": "place" };

function diffView(diff) {
  const node = codeView("");
  node.classList.add("diff");
  node.setAttribute("aria-label", "Difference to the old code");
  diff.replace(/\n$/, "").split("\n").forEach((line) => {
    const head = line.startsWith("+++ ") || line.startsWith("--- ");
    node.appendChild(element("div", head ? "place" : (KINDS[line[0]] ?? ""), line || " "));
  });
  return node;
}
