// Small helpers around the document.

export const byId = (id) => document.getElementById(id);

export function element(tag, className = "", text = undefined) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export const announce = (text) => (byId("announcer").textContent = text);

/** Whether the browser let the page copy. */
export const copy = (text) => navigator.clipboard?.writeText(text).then(() => true, () => false) ?? false;

/** At most one call a frame, with the newest arguments. */
export function eachFrame(action) {
  let newest = null;
  return (...args) => {
    if (newest === null) requestAnimationFrame(() => (action(...newest), (newest = null)));
    newest = args;
  };
}

/** Runs `action` once, when it was asked for and then not again for `wait` ms. `cancel` forgets it. */
export function debounce(action, wait) {
  let timer = 0;
  const later = (...args) => {
    clearTimeout(timer);
    timer = setTimeout(action, wait, ...args);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/** Tabs with arrow keys (WAI-ARIA's pattern). onSelect(tab) after each change; returns select(tab). */
export function tabs(list, onSelect) {
  const all = [...list.querySelectorAll('[role="tab"]')];
  const shown = () => all.filter((tab) => !tab.hidden);
  function select(chosen) {
    for (const tab of all) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
    }
    onSelect(chosen);
  }
  for (const tab of all) tab.addEventListener("click", () => select(tab));
  list.addEventListener("keydown", (event) => {
    const visible = shown();
    const at = visible.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: visible.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const next = visible[(to + visible.length) % visible.length];
    next.focus();
    select(next);
  });
  return select;
}
