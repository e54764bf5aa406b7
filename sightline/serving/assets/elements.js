"use strict";
// How the page finds and makes its elements. Text only ever becomes text: nothing is parsed as markup.
const by = (id) => document.getElementById(id);

const make = (tag, text = "", kind = "") => {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  if (kind) made.className = kind;
  return made;
};

const options = (select, entries) => {
  const before = select.value;
  select.replaceChildren(...entries.map(([value, text]) => Object.assign(make("option", text), { value })));
  // What was chosen stays chosen where it is still there.
  select.value = entries.some(([value]) => value === before) ? before : entries[0]?.[0];
};

const percent = (share) => `${(100 * share).toFixed(1)} %`;

const seconds = (time) => (time < 0.9995 ? `${(1000 * time).toFixed(0)} ms` : `${time.toFixed(time < 9.995 ? 2 : 1)} s`);

/** Hand a file to the browser's downloads. */
const keep = (blob, name) => {
  const address = URL.createObjectURL(blob);
  Object.assign(make("a"), { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000); // not before every browser has taken it
};
