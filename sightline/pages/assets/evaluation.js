"use strict";
(() => {
  // The headings sort: first by what is better, then the other way round.
  const table = document.querySelector("table");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const opposite = { ascending: "descending", descending: "ascending" };
      const way = opposite[head.getAttribute("aria-sort")] || head.dataset.first;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", way);
      const sign = way === "ascending" ? 1 : -1;
      // A cell without a value comes last either way.
      const value = (row) => {
        const text = row.cells[column].dataset.value;
        return text === undefined ? Infinity : sign * Number(text);
      };
      body.append(...[...body.rows].sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0)));
    });
  });

  // A method of a legend under the pointer stands out in its curve.
  for (const figure of document.querySelectorAll(".curve")) {
    const parts = [...figure.querySelectorAll("[data-method]")];
    for (const entry of figure.querySelectorAll("li")) {
      entry.addEventListener("pointerenter", () => {
        figure.dataset.active = "";
        for (const part of parts) part.classList.toggle("is-active", part.dataset.method === entry.dataset.method);
      });
      entry.addEventListener("pointerleave", () => delete figure.dataset.active);
    }
  }

  const outlines = document.getElementById("outlines");
  outlines?.addEventListener("change", () => document.body.classList.toggle("no-outlines", !outlines.checked));
  document.documentElement.dataset.ready = "";
})();
