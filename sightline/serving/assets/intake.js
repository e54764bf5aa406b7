"use strict";
// How images come in (chosen, dropped, pasted), and the few that are kept.
const intake = (() => {
  const KEPT = 12; // as many are remembered; the oldest goes first
  const images = [];
  let current = null;
  let listen = () => {};

  const choose = (image) => {
    current = image;
    show();
    listen(image);
  };

  const show = () => {
    const list = by("taken");
    list.hidden = !images.length;
    list.replaceChildren(
      ...images.map((image) => {
        const button = make("button", "", "take");
        button.type = "button";
        button.title = image.name;
        button.ariaLabel = image.answer ? `${image.name}: ${image.answer.explanation.label}` : image.name;
        button.setAttribute("aria-pressed", String(image === current));
        const picture = make("img");
        picture.alt = "";
        picture.src = image.address;
        picture.addEventListener("error", () => picture.replaceWith(make("span", image.name.split(".").pop().slice(0, 4), "unseen")));
        button.append(picture);
        if (image.answer) button.append(make("i", "✓", "done"));
        button.addEventListener("click", () => choose(image));
        return button;
      }),
    );
    list.querySelector("[aria-pressed=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  };

  const take = (files) => {
    const taken = [...files].map((file) => ({ file, name: file.name || "pasted.png", address: URL.createObjectURL(file) }));
    if (!taken.length) return;
    images.push(...taken);
    for (const gone of images.splice(0, Math.max(0, images.length - KEPT))) URL.revokeObjectURL(gone.address);
    choose(taken.at(-1) && images.includes(taken[0]) ? taken[0] : images[0]);
  };

  const begin = (chosen) => {
    listen = chosen;
    by("files").addEventListener("change", (event) => {
      take(event.target.files);
      event.target.value = ""; // so that the same file can be chosen again
    });
    // The whole page takes what is dropped: beside the field a browser would leave the page for the file.
    let depth = 0;
    const over = (change) => by("drop").classList.toggle("over", (depth = Math.max(0, depth + change)) > 0);
    addEventListener("dragenter", () => over(1));
    addEventListener("dragleave", () => over(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      over(-depth);
      take(event.dataTransfer.files);
    });
    addEventListener("paste", (event) => {
      const files = event.clipboardData?.files ?? [];
      if (files.length) event.preventDefault();
      take(files);
    });
  };

  return { begin, show, current: () => current };
})();
