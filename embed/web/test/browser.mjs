// Explains a picture with the built page in headless Chromium, the server gone and the network off by then.
//
//   node browser.mjs CHROMIUM DIST PICTURE FOLDER [--engine wasm] [--plain]
//
// Writes screenshots and the map (map.f32) to FOLDER, and prints one JSON.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { chromium } from "playwright-core";

import { server } from "../serve.mjs";

const { values: options, positionals } = parseArgs({
  options: { engine: { type: "string", default: "wasm" }, plain: { type: "boolean", default: false } },
  allowPositionals: true,
});
const [executablePath, dist, picture, folder] = positionals;

const site = server(dist, { isolated: !options.plain });
await new Promise((ready) => site.listen(0, "127.0.0.1", ready));
const origin = `http://127.0.0.1:${site.address().port}`;
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    ...(options.engine === "webgpu" ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"] : []),
  ],
});
const said = [];
const requested = [];
try {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, colorScheme: "light", acceptDownloads: true });
  const page = await context.newPage();
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error)));
  context.on("request", (request) => requested.push(request.url()));
  // The worker's answers, as the page gets them: the map is compared with Python's.
  await page.addInitScript(() => {
    const Original = Worker;
    globalThis.Worker = class extends Original {
      constructor(...words) {
        super(...words);
        this.addEventListener("message", ({ data }) => {
          if (data.kind === "explained") globalThis.lastAnswer = data.value;
        });
      }
    };
  });
  page.setDefaultTimeout(60_000);
  await page.goto(`${origin}/`);
  if (options.engine !== "auto") await page.selectOption("#engine", options.engine);
  await page.waitForFunction(() => /×/.test(document.querySelector("#file-facts").textContent) || !document.querySelector("#problem").hidden);
  await page.screenshot({ path: join(folder, "empty.png") });
  const facts = await page.textContent("#file-facts");

  // A run that is stopped leaves the page able to explain: all that follows comes after a stop.
  const stopped = page.evaluate(
    () =>
      new Promise((clicked) => {
        const button = document.querySelector("#stop");
        new MutationObserver((_, observer) => {
          if (button.hidden) return;
          observer.disconnect();
          button.click();
          clicked(true);
        }).observe(button, { attributes: true });
      }),
  );
  await page.setInputFiles("#choose", picture);
  await stopped;
  await page.waitForSelector("#progress", { state: "hidden" });
  await page.waitForSelector("#stop", { state: "hidden" });
  const quiet = await page.evaluate(() => !document.body.dataset.explained && document.querySelector("#problem").hidden);

  // Everything that is needed is loaded: from here on there is neither a server nor a network.
  site.closeAllConnections();
  await new Promise((closed) => site.close(closed));
  await context.setOffline(true);
  const before = requested.length;

  const explained = () => page.waitForSelector("body[data-explained]");
  const answer = () =>
    page.evaluate(() => {
      const { saliency, logits, probabilities, ...rest } = globalThis.lastAnswer;
      return { ...rest, saliency: [...saliency], logits: [...logits] };
    });
  const explain = async (file) => {
    await page.evaluate(() => delete document.body.dataset.explained);
    await page.setInputFiles("#choose", file);
    await explained();
    return answer();
  };
  // How long the page itself was ever kept from drawing while the worker was at work.
  await page.evaluate(() => {
    globalThis.frames_ = 0;
    const count = () => {
      globalThis.frames_ += 1;
      requestAnimationFrame(count);
    };
    requestAnimationFrame(count);
  });
  const { saliency, ...found } = await explain(picture);
  const frames = await page.evaluate(() => globalThis.frames_);
  await writeFile(join(folder, "map.f32"), new Uint8Array(Float32Array.from(saliency).buffer));
  await page.screenshot({ path: join(folder, "light-1280.png"), fullPage: true });

  // What is on the screen with the map and without it: their difference is where the map is.
  await page.uncheck("#show-regions");
  const box = await page.locator("#canvas").boundingBox();
  await page.screenshot({ path: join(folder, "with-map.png") });
  await page.fill("#opacity", "0");
  await page.screenshot({ path: join(folder, "without-map.png") });
  await page.fill("#opacity", "80");
  await page.check("#show-regions");
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
  await download.saveAs(join(folder, "saved.png"));

  for (const [scheme, width, height] of [["dark", 1280, 860], ["light", 390, 844], ["dark", 390, 844]]) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width, height });
    await page.screenshot({ path: join(folder, `${scheme}-${width}.png`), fullPage: true });
  }
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1280, height: 860 });

  // Another class, by its row; then fewer passes.
  const shown = await page.textContent("#label");
  await page.evaluate(() => delete document.body.dataset.explained);
  await page.click("#classes li:nth-child(2) button");
  await explained();
  const other = await answer();
  await page.evaluate(() => delete document.body.dataset.explained);
  await page.fill("#mu", "0.5");
  await page.dispatchEvent("#mu", "change");
  await explained();
  const fewer = await answer();

  // The camera (Chromium's own test picture), then back.
  await page.click("#camera");
  await page.waitForSelector("#capture:not([hidden])");
  await page.waitForFunction(() => document.querySelector("#video").videoWidth > 0);
  await page.evaluate(() => delete document.body.dataset.explained);
  await page.click("#capture");
  await explained();
  const filmed = await answer();

  // What is no picture is refused, and the page goes on.
  await page.setInputFiles("#choose", { name: "notes.png", mimeType: "image/png", buffer: Buffer.from("no picture") });
  await page.waitForSelector("#problem:not([hidden])");
  const problem = await page.textContent("#problem");
  await page.setInputFiles("#open", { name: "other.onnx", mimeType: "", buffer: Buffer.from("no model") });
  await page.waitForFunction((before) => document.querySelector("#problem").textContent !== before, problem);
  const noModel = await page.textContent("#problem");

  console.log(
    JSON.stringify({
      ...found,
      facts,
      shown,
      frames,
      box,
      other: { target: other.target, label: other.label },
      fewer: fewer.passes,
      overflow,
      quiet,
      filmed: filmed.passes,
      problem,
      noModel,
      said,
      elsewhere: requested.filter((url) => !url.startsWith(origin) && !/^(blob|data):/.test(url)),
      later: requested.slice(before).filter((url) => !/^(blob|data):/.test(url)),
      requested: requested.map((url) => url.replace(origin, "")),
    }),
  );
} finally {
  await browser.close();
  site.close();
}
