// Refactoring: the new code as it streams, then the diff.

import { postStream } from "./api.js";
import { byId, element } from "./dom.js";

export class Refactoring {
  constructor(body) {
    this.body = { ...body, stream: true };
    this.code = "";
    this.diff = null;
    this.usage = null;
    this.finishReason = null;
    this.startedAt = this.firstAt = this.lastAt = null;
    this.running = false;
    this.controller = new AbortController();
  }

  abort() {
    this.controller.abort();
  }

  get aborted() {
    return this.controller.signal.aborted;
  }

  async run(onChange) {
    this.running = true;
    this.startedAt = performance.now();
    try {
      for await (const chunk of postStream("v1/refactor", this.body, { signal: this.controller.signal })) {
        this.lastAt = performance.now();
        this.firstAt ??= this.lastAt;
        this.code += chunk.code;
        if (chunk.finish_reason) Object.assign(this, { diff: chunk.diff, usage: chunk.usage, finishReason: chunk.finish_reason });
        onChange();
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      this.running = false;
    }
  }

  get ttft() {
    return this.firstAt === null ? null : this.firstAt - this.startedAt;
  }

  get generated() {
    return this.usage?.completion_tokens ?? null;
  }

  get speed() {
    const seconds = (this.lastAt - this.firstAt) / 1000;
    return seconds > 0.005 && this.generated > 1 ? (this.generated - 1) / seconds : null;
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
