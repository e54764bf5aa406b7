// Serves the built page on this machine, with the two headers that let ONNX Runtime use several threads.
//
//   node serve.mjs [FOLDER] [--port 8080]
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".wasm": "application/wasm",
  ".png": "image/png",
  ".jpg": "image/jpeg",
};

/** A server of the files below a folder, on 127.0.0.1 alone. */
export function server(folder, { isolated = true } = {}) {
  return createServer(async (request, response) => {
    let path;
    try {
      path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    } catch {
      response.writeHead(400).end(); // no address
      return;
    }
    const file = join(folder, path.endsWith("/") ? `${path}index.html` : path);
    const found = await stat(file).catch(() => null);
    if (!found?.isFile()) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, {
      "Content-Type": TYPES[extname(file)] ?? "application/octet-stream",
      "Content-Length": found.size,
      ...(isolated
        ? { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" }
        : {}),
    });
    createReadStream(file)
      .on("error", () => response.destroy())
      .pipe(response);
  });
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { values, positionals } = parseArgs({
    options: { port: { type: "string", default: "8080" } },
    allowPositionals: true,
  });
  const folder = positionals[0] ?? join(dirname(fileURLToPath(import.meta.url)), "dist");
  server(folder).listen(Number(values.port), "127.0.0.1", () => {
    console.log(`http://127.0.0.1:${values.port}/`);
  });
}
