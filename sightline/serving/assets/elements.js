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

/** A name among other words: whichever way it runs, and whatever it says of that, what follows it runs as before. */
const isolated = (text) => {
  const plain = text.replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "");
  return plain !== text || /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/.test(plain) ? `\u2068${plain}\u2069` : text;
};

const percent = (share) => `${(100 * share).toFixed(1)} %`;

const seconds = (time) => (time < 0.9995 ? `${(1000 * time).toFixed(0)} ms` : `${time.toFixed(time < 9.995 ? 2 : 1)} s`);

/** Hand a file to the browser's downloads. */
const keep = (blob, name) => {
  const address = URL.createObjectURL(blob);
  Object.assign(make("a"), { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000); // not before every browser has taken it
};
