"use strict";
// A hierarchy as the page that the server made of it, in a frame that may run scripts and nothing else: it has an origin
// of its own and no way to the network, to this page or to the API key.
const treeFrame = (() => {
  const show = (html, label) => {
    const frame = make("iframe");
    frame.title = `What carried ${label}, layer by layer`;
    frame.sandbox = "allow-scripts";
    frame.srcdoc = html; // light or dark it takes from the page around it, as the system's wish
    by("tree").replaceChildren(frame);
  };
  return { show, clear: () => by("tree").replaceChildren() };
})();
