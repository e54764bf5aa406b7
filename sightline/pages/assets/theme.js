"use strict";
// Light or dark: the reader's choice, kept where the browser allows it; until then the system's.
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = (change) => {
    try {
      if (change) localStorage.setItem("sightline-theme", change);
      return localStorage.getItem("sightline-theme");
    } catch {
      return null; // storage is closed to this page: the choice lasts as long as the page
    }
  };
  const before = kept();
  if (before === "light" || before === "dark") root.dataset.theme = before;
  const shown = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  for (const button of document.querySelectorAll("[data-theme-toggle]")) {
    button.addEventListener("click", () => {
      root.dataset.theme = shown() === "dark" ? "light" : "dark";
      kept(root.dataset.theme);
    });
  }
})();
