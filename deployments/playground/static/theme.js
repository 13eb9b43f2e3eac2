// The page's theme: the system's until somebody chooses. Not a module, so that it runs before the first paint.
"use strict";
(() => {
  const root = document.documentElement;
  const KEY = "starcoder-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem(KEY); } catch { /* storage is forbidden: the system's theme it is */ }

  const isDark = () => (chosen ?? (system.matches ? "dark" : "light")) === "dark";
  const apply = () => {
    if (chosen) root.dataset.theme = chosen;
    for (const button of document.querySelectorAll("[data-theme-toggle]")) button.setAttribute("aria-pressed", isDark());
  };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    for (const button of document.querySelectorAll("[data-theme-toggle]"))
      button.addEventListener("click", () => {
        chosen = isDark() ? "light" : "dark";
        try { localStorage.setItem(KEY, chosen); } catch { /* then only for this page */ }
        apply();
      });
  });
})();
