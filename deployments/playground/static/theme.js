// The page's theme: the system's until somebody chooses another. Not a module, so that it runs before the first paint.
"use strict";
(() => {
  const root = document.documentElement;
  const KEY = "starcoder-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const buttons = () => document.querySelectorAll("[data-theme-toggle]");
  let chosen = null;
  try { chosen = localStorage.getItem(KEY); } catch { /* storage is forbidden: the system's theme it is */ }

  const systems = () => (system.matches ? "dark" : "light");
  const other = () => ((chosen ?? systems()) === "dark" ? "light" : "dark");

  function apply() {
    if (chosen) root.dataset.theme = chosen;
    else delete root.dataset.theme;
    for (const button of buttons()) button.textContent = other() === "dark" ? "Dark theme" : "Light theme";
  }

  function change() {
    chosen = other();
    if (chosen === systems()) chosen = null; // who is back at the system's follows it again
    try {
      if (chosen) localStorage.setItem(KEY, chosen);
      else localStorage.removeItem(KEY);
    } catch { /* then only for this page */ }
    apply();
  }

  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    for (const button of buttons()) button.addEventListener("click", change);
  });
})();
