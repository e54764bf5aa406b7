"use strict";
// The page: which image, which model, what is asked, and what is shown of the answer.
(async () => {
  const models = new Map(); // name -> what the server says about it
  let running = null; // the explanation, tree or npz under way; one at a time
  let done = Promise.resolve(); // when it ended
  let looking = null; // the prediction under way

  heat.begin(JSON.parse(by("data").textContent).colours);
  stage.begin();

  const model = () => models.get(by("model").value);
  const answer = (image) => (image?.answer?.model === model() ? image.answer : null);

  // What goes wrong is said as the server says it.
  const trouble = (error) => {
    if (error?.status === 401) {
      by("entrance").hidden = false;
      by("key").focus();
    }
    by("trouble").hidden = !error;
    if (!error) return;
    if (!(error instanceof server.Refusal)) console.error(error);
    by("reason").textContent = error.message;
    by("trouble").scrollIntoView({ block: "nearest" });
    by("details").textContent = [error.status && `HTTP ${error.status}`, error.id && `request ${error.id}`].filter(Boolean).join(" · ");
  };
  const say = (text) => (by("said").textContent = text);

  const busy = (error, left) => {
    trouble(left ? error : null);
    if (left) by("details").textContent += ` · asking again in ${left} s`;
  };

  /** Do one thing that takes a while; it can be cancelled, and a failure of it is shown. */
  const run = (doing, work) => (done = carry(doing, work, (running = new AbortController())));
  const carry = async (doing, work, controller) => {
    ready();
    trouble(null);
    by("doing").textContent = doing;
    by("waiting").hidden = false;
    by("waiting").scrollIntoView({ block: "nearest" }); // on a phone it is below the form
    say(doing);
    const began = performance.now();
    const tell = () => (by("elapsed").textContent = `${((performance.now() - began) / 1000).toFixed(1)} s`);
    tell();
    const clock = setInterval(tell, 100);
    try {
      await work(controller.signal);
    } catch (error) {
      trouble(controller.signal.aborted ? null : error);
      say(controller.signal.aborted ? "Cancelled." : "");
    } finally {
      clearInterval(clock);
      by("waiting").hidden = true;
      running = null;
      ready();
    }
  };

  const ready = () => {
    const free = Boolean(model() && intake.current() && !running);
    for (const name of ["explain", "npz"]) by(name).disabled = !free;
  };

  const instance = async (image, target) => {
    const { limits } = model();
    if ((image.file.size * 4) / 3 > limits.max_bytes) {
      const [has, most] = [(image.file.size * 4) / 3, limits.max_bytes].map((bytes) => (bytes / 2 ** 20).toFixed(1));
      throw new server.Refusal(`${isolated(image.name)} takes ${has} MiB in base64; this server takes at most ${most} MiB.`);
    }
    return { b64: await server.base64(image.file), ...(target === "" ? {} : { target: Number(target) }) };
  };

  const wanted = () => {
    const numbers = { max_passes: by("most"), deadline: by("deadline") };
    const asked = by("method").value ? { method: by("method").value } : {};
    for (const [name, field] of Object.entries(numbers)) if (field.value !== "") asked[name] = field.valueAsNumber;
    return asked;
  };

  // Showing.
  const heading = (title, summary) => {
    by("title").textContent = title;
    by("summary").textContent = summary;
  };
  const tab = (name) => {
    for (const tabs of ["map", "tree"]) {
      const chosen = tabs === name;
      by(`tab-${tabs}`).setAttribute("aria-selected", String(chosen));
      by(`tab-${tabs}`).tabIndex = chosen ? 0 : -1;
      by(`panel-${tabs}`).hidden = !chosen;
    }
  };
  const choose = (target) => (by("target").value = String(target));

  const show = async (image) => {
    looking?.abort();
    trouble(null);
    ready();
    intake.show();
    by("empty").hidden = Boolean(image);
    by("shown").hidden = !image;
    if (!image) return;
    tab("map");
    treeFrame.clear();
    by("html").disabled = true;
    const found = answer(image);
    by("tabs").hidden = !(found && model().hierarchy);
    by("explained").hidden = !found;
    if (!found) {
      heading(isolated(image.name), "");
      by("taken-for").hidden = true;
    }
    await Promise.all([stage.image(image), found ? null : predict(image)]);
    if (intake.current() !== image || answer(image) !== found || !found) return;
    const { explanation, prediction } = found;
    const other = prediction.target === explanation.target ? "" : `, predicted: ${isolated(prediction.label)} ${prediction.score.toFixed(3)}`;
    heading(
      `${isolated(explanation.label)} ${explanation.score.toFixed(3)}`,
      `${isolated(image.name)} · ${report.named(explanation.method)}, ${explanation.passes} passes, ${seconds(explanation.timings.total)}${other}`,
    );
    stage.explain(explanation);
    report.predictions(model(), prediction, explanation.target, choose);
    report.explanation(explanation);
  };

  const predict = async (image) => {
    const asked = model();
    if (!asked) return;
    const controller = new AbortController();
    looking = controller;
    try {
      const { signal } = controller;
      const said = await server.post(asked.name, "predict", await instance(image, ""), {}, { signal, busy });
      const [prediction] = (await said.json()).predictions;
      if (controller.signal.aborted) return;
      heading(`${isolated(prediction.label)} ${prediction.score.toFixed(3)}`, isolated(image.name));
      report.predictions(asked, prediction, null, choose);
      say(`${isolated(image.name)}: taken for ${isolated(prediction.label)}`);
    } catch (error) {
      if (!controller.signal.aborted) trouble(error);
    }
  };

  const explain = (image) =>
    run(`Explaining ${isolated(image.name)}`, async (signal) => {
      looking?.abort();
      const [asked, parameters] = [model(), wanted()];
      const said = await server.post(
        asked.name,
        "explain",
        await instance(image, by("target").value),
        { ...parameters, overlay: true, saliency: true, layers: true },
        { signal, busy },
      );
      const { explanations, predictions } = await said.json();
      image.answer = { model: asked, explanation: explanations[0], prediction: predictions[0], parameters };
      // Another image may be looked at by now; its mark in the list says that this one is done.
      if (intake.current() === image) await show(image);
      intake.show();
      say(`${isolated(image.name)}: ${isolated(explanations[0].label)}, ${explanations[0].regions.length} regions, ${explanations[0].passes} passes`);
    });

  const tree = async (image) => {
    tab("tree");
    const found = answer(image);
    by("of").textContent = `Which units carried ${isolated(found.explanation.label)}, and through which features, down to the edges.`;
    while (running) await done;
    if (!found.tree && !by("panel-tree").hidden && intake.current() === image) {
      await run(`Taking ${isolated(found.explanation.label)} apart`, async (signal) => {
        const asked = await instance(image, found.explanation.target);
        const said = await server.post(found.model.name, "decompose", asked, {}, { accept: "text/html", signal, busy });
        found.tree = await said.text();
      });
    }
    if (!found.tree || intake.current() !== image || by("panel-tree").hidden) return;
    treeFrame.show(found.tree, found.explanation.label);
    by("html").disabled = false;
    say(`${isolated(image.name)}: what carried ${isolated(found.explanation.label)}`);
  };

  // Keeping.
  const named = (suffix) => {
    const { name, answer: found } = intake.current();
    return `${name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}_-]+/gu, "-") || "image"}.${found.explanation.method}.${suffix}`;
  };
  by("png").addEventListener("click", () => {
    const raw = atob(intake.current().answer.explanation.overlay);
    keep(new Blob([Uint8Array.from(raw, (character) => character.charCodeAt(0))], { type: "image/png" }), named("png"));
  });
  by("json").addEventListener("click", () => {
    const { explanation, prediction } = intake.current().answer;
    const { overlay, saliency, layer_maps, ...facts } = explanation; // the maps are what the npz is for
    const text = `${JSON.stringify({ file: intake.current().name, prediction, explanation: facts }, null, 2)}\n`;
    keep(new Blob([text], { type: "application/json" }), named("json"));
  });
  by("npz").addEventListener("click", () => {
    const [image, found, name] = [intake.current(), answer(intake.current()), named("npz")];
    run(`Computing ${name}`, async (signal) => {
      const asked = await instance(image, found.explanation.target);
      const said = await server.post(found.model.name, "explain", asked, found.parameters, { accept: "application/x-npz", signal, busy });
      keep(await said.blob(), name);
    });
  });
  by("html").addEventListener("click", () => keep(new Blob([intake.current().answer.tree], { type: "text/html" }), named("html")));

  // What the reader does.
  by("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!by("explain").disabled) explain(intake.current());
  });
  by("cancel").addEventListener("click", () => running?.abort());
  by("tab-map").addEventListener("click", () => tab("map"));
  by("tab-tree").addEventListener("click", () => tree(intake.current()));
  by("tabs").addEventListener("keydown", ({ key, target }) => {
    if (!["ArrowLeft", "ArrowRight"].includes(key)) return;
    const other = by(target.id === "tab-map" ? "tab-tree" : "tab-map");
    other.focus();
    other.click();
  });
  by("model").addEventListener("change", () => {
    describe();
    show(intake.current());
  });
  by("entrance").addEventListener("submit", (event) => {
    event.preventDefault();
    server.enter(by("key").value.trim());
    by("key").value = "";
    by("entrance").hidden = true;
    models.size ? show(intake.current()) : start();
  });

  // What there is to choose from.
  const describe = () => {
    const { labels, classes, methods, method, engine, precision, limits } = model();
    options(by("target"), [["", "What the network predicts"], ...Array.from({ length: classes }, (_, at) => [String(at), labels?.[at] ?? String(at)])]);
    options(by("method"), [["", `${report.named(method)}, as the server is set up`], ...methods.map((name) => [name, report.named(name)])]);
    by("deadline").placeholder = limits.deadline ? `at most ${limits.deadline}` : "no limit";
    by("about").textContent = `· ${engine}, ${precision}`;
  };
  const start = async () => {
    trouble(null);
    try {
      for (const name of await server.models(busy)) models.set(name, await server.model(name, busy));
      options(by("model"), [...models.keys()].map((name) => [name, name]));
      if (models.size) describe();
      await show(intake.current());
    } catch (error) {
      trouble(error);
    }
    document.documentElement.dataset.ready = "";
  };
  intake.begin(show);
  await start();
})();
