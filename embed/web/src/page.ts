/** The page: a picture in, an explanation out. */
import { Client, Stopped } from "./client.ts";
import { Drawing } from "./drawing.ts";
import { decode, frame, pixelsOf } from "./intake.ts";
import { Progress, seconds } from "./progress.ts";
import type { Answer, Engine, Opened } from "./protocol.ts";

const element = <E extends HTMLElement = HTMLElement>(id: string): E => document.getElementById(id) as E;
const input = (id: string): HTMLInputElement => element<HTMLInputElement>(id);

const client = new Client(new URL("worker.js", document.baseURI));
const drawing = new Drawing(element<HTMLCanvasElement>("canvas"));
const progress = new Progress(element("progress"), element("status"));
const video = element<HTMLVideoElement>("video");

let file: Blob | null = null;
let opened: Opened | null = null;
let picture: HTMLCanvasElement | null = null;
let answer: Answer | null = null;
let target: number | null = null; // null: the predicted class
let busy = false;
let again = false; // something changed while the worker was busy
let expected: number | null = null;
let stream: MediaStream | null = null;

function tell(problem: unknown): void {
  const box = element("problem");
  box.hidden = problem === null;
  box.textContent = problem instanceof Error ? problem.message : String(problem ?? "");
}

function wantedEngine(): Engine {
  const chosen = element<HTMLSelectElement>("engine").value;
  return chosen === "auto" ? ("gpu" in navigator ? "webgpu" : "wasm") : (chosen as Engine);
}

async function open(blob: Blob): Promise<void> {
  if (!(await load(blob))) return;
  target = null;
  await explain();
}

/** Opens a file; where it is refused, the one before it stays open. */
async function load(blob: Blob): Promise<boolean> {
  progress.start("Opening the explainer…", null);
  try {
    opened = await client.open(blob, wantedEngine());
  } catch (error) {
    if (!opened) element("file-facts").textContent = "No explainer is open.";
    tell(error);
    return false;
  } finally {
    progress.end();
  }
  file = blob;
  expected = null;
  tell(null);
  const { facts, engine, threads, refused } = opened;
  element("file-facts").textContent =
    `${facts.method.name} · ${facts.width}×${facts.height} · ` +
    (engine === "webgpu" ? "WebGPU" : `CPU, ${threads} thread${threads === 1 ? "" : "s"}`);
  element("file-facts").title = refused === null ? "" : `WebGPU was not used: ${refused}`;
  if (refused !== null && element<HTMLSelectElement>("engine").value === "webgpu") {
    tell(`WebGPU was not used (${refused}): the CPU explains instead.`);
  }
  element("mu-row").hidden = !opened.choices.includes("mu");
  return true;
}

async function explain(): Promise<void> {
  if (!opened || !picture) return;
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  element("stop").hidden = false;
  progress.start("Explaining…", expected);
  const shown = picture;
  try {
    const mu = Number(input("mu").value);
    const found = await client.explain(pixelsOf(shown), {
      ...(target === null ? {} : { target }),
      ...(opened.choices.includes("mu") && mu > 0 ? { mu } : {}),
    });
    expected = found.milliseconds;
    progress.end();
    if (picture === shown) show(found);
    tell(null);
  } catch (error) {
    progress.end();
    if (!(error instanceof Stopped)) tell(error);
    else if (file) await load(file); // its worker is gone
  } finally {
    busy = false;
    element("stop").hidden = true;
  }
  if (again) {
    again = false;
    await explain();
  }
}

function show(found: Answer): void {
  answer = found;
  drawing.explain(found);
  element("verdict").hidden = false;
  element("verdict-kind").textContent = target === null ? "The network says" : "What speaks for";
  element("label").textContent = found.label;
  element("score").textContent = found.score.toFixed(3);
  showClasses(found);
  showRegions(found);
  element("save").hidden = false;
  const passes = found.passes > 0 ? `${found.passes} masked passes` : "no masked passes";
  element("welcome").hidden = true;
  progress.end(`${passes} in ${seconds(found.milliseconds)}`);
  document.body.dataset["explained"] = found.label;
}

/** The most probable classes; the one explained is always among them. */
function showClasses(found: Answer): void {
  const order = [...found.probabilities.keys()].sort((a, b) => found.probabilities[b]! - found.probabilities[a]!);
  const shown = order.slice(0, 5);
  if (!shown.includes(found.target)) shown.push(found.target);
  const rows = shown.map((number) => {
    const button = document.createElement("button");
    const share = document.createElement("i");
    const [name, score] = [document.createElement("span"), document.createElement("span")];
    share.style.width = `${100 * Math.min(Math.max(found.probabilities[number]!, 0), 1)}%`;
    name.textContent = opened?.facts.labels?.[number] ?? String(number);
    score.textContent = found.probabilities[number]!.toFixed(3);
    button.type = "button";
    button.ariaPressed = String(number === found.target);
    button.disabled = !opened?.choices.includes("target");
    button.append(share, name, score);
    button.onclick = () => {
      target = number;
      void explain();
    };
    const row = document.createElement("li");
    row.append(button);
    return row;
  });
  element("classes").replaceChildren(...rows);
}

function showRegions(found: Answer): void {
  element("regions-card").hidden = found.regions.length === 0;
  const rows = found.regions.slice(0, 8).map(({ box, mass }, i) => {
    const row = document.createElement("tr");
    const cells = [i + 1, `${box[0]}, ${box[1]}`, `${box[2] - box[0]} × ${box[3] - box[1]}`, `${(100 * mass).toFixed(1)} %`];
    row.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: String(text) })));
    return row;
  });
  element("regions").replaceChildren(...rows);
}

async function take(chosen: HTMLCanvasElement | Blob): Promise<void> {
  try {
    picture = chosen instanceof Blob ? await decode(chosen) : chosen;
  } catch (error) {
    tell(error);
    return;
  }
  closeCamera();
  target = null;
  answer = null;
  delete document.body.dataset["explained"];
  for (const id of ["verdict", "regions-card", "save", "invitation"]) element(id).hidden = true;
  progress.end();
  element("canvas").hidden = false;
  drawing.show(picture);
  tell(null);
  if (!opened && !busy) tell("Open an explainer first: a file made by 'sightline export --single-file'.");
  await explain();
}

/** A picture is explained, an .onnx file opened. */
async function receive(files: Iterable<File>): Promise<void> {
  for (const each of files) {
    await (each.name.endsWith(".onnx") ? open(each) : take(each));
  }
}

async function openCamera(): Promise<void> {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    tell(`the camera cannot be used (${error instanceof Error ? error.message : error}): allow it for this page.`);
    return;
  }
  video.srcObject = stream;
  await video.play();
  for (const id of ["canvas", "invitation"]) element(id).hidden = true;
  video.hidden = false;
  element("capture").hidden = false;
  element("camera").textContent = "Close the camera";
}

function closeCamera(): void {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  video.hidden = true;
  video.srcObject = null;
  element("capture").hidden = true;
  element("camera").textContent = "Camera";
  element("canvas").hidden = picture === null;
  element("invitation").hidden = picture !== null;
}

async function save(): Promise<void> {
  const blob = await drawing.overlay();
  if (!blob || !answer) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${answer.label}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function listen(): void {
  const stage = element("stage");
  for (const chooser of [input("choose"), input("open")]) {
    chooser.onchange = () => {
      const files = [...(chooser.files ?? [])];
      chooser.value = ""; // so that the same file may be chosen again
      void receive(files);
    };
  }
  for (const [label, chooser] of [["choose-label", "choose"], ["open-label", "open"]] as const) {
    element(label).onkeydown = (event) => {
      if (event.key === "Enter" || event.key === " ") input(chooser).click();
    };
  }
  document.body.ondragover = (event) => {
    event.preventDefault();
    stage.classList.add("over");
  };
  document.body.ondragleave = () => stage.classList.remove("over");
  document.body.ondrop = (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    void receive([...(event.dataTransfer?.files ?? [])]);
  };
  document.onpaste = (event) => void receive([...(event.clipboardData?.files ?? [])]);
  element("camera").onclick = () => (stream ? closeCamera() : void openCamera());
  element("capture").onclick = () => void take(frame(video));
  element("save").onclick = () => void save();
  element("stop").onclick = () => {
    again = false;
    client.stop();
  };
  element("engine").onchange = () => {
    if (busy) {
      again = true;
      client.stop();
    } else if (file) void open(file);
  };
  input("opacity").oninput = () => {
    element("opacity-value").textContent = `${input("opacity").value} %`;
    drawing.opacity = Number(input("opacity").value) / 100;
    drawing.draw();
  };
  input("show-regions").onchange = () => {
    drawing.regions = input("show-regions").checked;
    drawing.draw();
  };
  input("mu").oninput = () => (element("mu-value").textContent = input("mu").value);
  input("mu").onchange = () => {
    expected = null;
    void explain();
  };
}

/** The pictures that were built into the page, to try it with. */
async function offerSamples(): Promise<void> {
  const found = await fetch("samples.json");
  const names: string[] = found.ok ? await found.json() : [];
  const buttons = names.map((name) => {
    const [button, image] = [document.createElement("button"), document.createElement("img")];
    button.type = "button";
    button.title = name;
    image.src = `samples/${name}`;
    image.alt = `Explain ${name}`;
    button.append(image);
    button.onclick = async () => take(await (await fetch(image.src)).blob());
    return button;
  });
  element("samples").hidden = buttons.length === 0;
  element("samples").replaceChildren(...buttons);
}

async function start(): Promise<void> {
  listen();
  await offerSamples();
  const found = await fetch("explainer.onnx");
  if (found.ok) await open(await found.blob());
  else element("file-facts").textContent = "Drop or open a file made by 'sightline export --single-file'.";
}

void start().catch(tell);
