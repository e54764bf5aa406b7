"use strict";
// What the page asks of its server, and what becomes of a refusal. Addresses are relative: the page also works behind a
// prefix. The API key is kept in this closure and nowhere else.
const server = (() => {
  let key = "";

  /** The server said no, or could not be asked. */
  class Refusal extends Error {
    constructor(message, { status = 0, wait = null, id = "" } = {}) {
      super(message);
      Object.assign(this, { status, wait, id });
    }
  }

  const refusal = async (answer) => {
    const text = await answer.text();
    let said = {};
    try {
      said = JSON.parse(text) ?? {};
    } catch {
      // not from Sightline but from something in front of it: its words, as they are
    }
    const wait = parseInt(answer.headers.get("Retry-After"), 10);
    return new Refusal(typeof said.error === "string" ? said.error : text.slice(0, 500) || answer.statusText || "no reason was given", {
      status: answer.status,
      wait: wait >= 0 ? wait : null,
      id: typeof said.id === "string" ? said.id : (answer.headers.get("X-Request-ID") ?? ""),
    });
  };

  const ask = async (path, { body, accept = "application/json", signal } = {}) => {
    const headers = { Accept: accept };
    if (/[^\0-\xff]/.test(key)) throw new Refusal("The API key has characters that no header can hold: enter it again.", { status: 401 });
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body) headers["Content-Type"] = "application/json";
    let answer;
    try {
      answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(`The server cannot be reached (${error.message}).`);
    }
    if (!answer.ok) throw await refusal(answer);
    return answer;
  };

  const second = (signal) =>
    new Promise((resolve, reject) => {
      const abort = () => {
        clearTimeout(timer);
        reject(signal.reason);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener("abort", abort);
        resolve();
      }, 1000);
      signal?.addEventListener("abort", abort, { once: true });
    });

  /** Ask; where the server is busy and says for how long, wait as long as that and ask again. */
  const patiently = async (path, request, busy) => {
    for (;;) {
      try {
        return await ask(path, request);
      } catch (error) {
        if (![429, 503].includes(error.status) || error.wait === null) throw error;
        for (let left = Math.max(error.wait, 1); left > 0; left--) {
          busy(error, left);
          await second(request.signal);
        }
        busy(error, 0);
      }
    }
  };

  const base64 = (blob) =>
    new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
      reader.onerror = () => reject(new Refusal(`The file cannot be read (${reader.error.message}).`));
      reader.readAsDataURL(blob);
    });

  const model = (name, verb) => `v1/models/${encodeURIComponent(name)}${verb ? `:${verb}` : ""}`;

  return {
    Refusal,
    base64,
    enter: (entered) => void (key = entered),
    models: async (busy) => (await (await patiently("v1/models", {}, busy)).json()).models,
    /** What the server says about a model, once it is ready. */
    model: async (name, busy) => (await patiently(model(name), {}, busy)).json(),
    /** POST one instance; ``accept`` says as what it shall come back. The answer is a Response. */
    post: (name, verb, instance, parameters, { accept, signal, busy }) =>
      patiently(model(name, verb), { body: { instances: [instance], parameters }, accept, signal }, busy),
  };
})();
