// Sends a page's calls of bakrypt's API to the server that this script comes from. The server adds
// the token, so that the page needs none. Load it as a classic script, before bakrypt's component.

(() => {
  const OURS = "BAKRYPT_HOSTS".split(" "); // of its network: the server fills them in
  const OTHERS = ["bakrypt.io", "testnet.bakrypt.io"].filter((host) => !OURS.includes(host));
  const REPEATS = 3; // of a file: each worker of the server may have to learn that a token is dead
  const base = new URL(".", document.currentScript.src).href;
  const send = window.fetch;

  window.fetch = function (input, init) {
    const url = parse(isRequest(input) ? input.url : input);
    if (OURS.includes(url?.host)) return sendToServer(url, input, init);
    if (OTHERS.includes(url?.host)) {
      const text =
        `This page calls ${url.host}, but its server uses ${OURS}: ` +
        'set "testnet" on the component or BAKRYPT_NETWORK';
      console.error(text); // the component shows another text
      return Promise.reject(new TypeError(text));
    }
    return send.apply(this, arguments);
  };

  async function sendToServer(url, input, init) {
    const isSimple = !isRequest(input) && isPlain(init);
    const options = isSimple ? init : await read(new Request(input, init));
    const headers = new Headers(options?.headers);
    headers.delete("Authorization");
    const target = base + url.pathname.slice(1) + url.search;
    const isFile =
      /^\/v1\/files\/?$/.test(url.pathname) && !(options?.body instanceof ReadableStream);
    for (let repeats = isFile ? REPEATS : 0; ; repeats -= 1) {
      // "include": the page may be of another origin of the same site, and receipts are cookies.
      const response = await send(target, { ...options, headers, credentials: "include" });
      if (!repeats || !(await isTemporary(response))) return response;
      await wait(Number(response.headers.get("Retry-After")), options?.signal);
    }
  }

  // Not the request itself: its body is a stream, which cannot be sent again, nor over HTTP/1.1.
  async function read(request) {
    const { method, headers, signal, keepalive } = request;
    const body = method === "GET" || method === "HEAD" ? undefined : await request.blob();
    return { method, headers, signal, keepalive, body };
  }

  async function isTemporary(response) {
    if (response.status !== 503 || !response.headers.has("Retry-After")) return false;
    const body = await response
      .clone()
      .json()
      .catch(() => null);
    return body?.error === "temporarily_unavailable";
  }

  function wait(seconds, signal) {
    return new Promise((resolve, reject) => {
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
      setTimeout(resolve, seconds * 1000);
    });
  }

  // Members of a class or a prototype would be lost where a monitoring tool copies the options.
  function isPlain(options) {
    return options == null || [Object.prototype, null].includes(Object.getPrototypeOf(options));
  }

  // Not instanceof: a request of another frame is one, too.
  function isRequest(value) {
    return Object.prototype.toString.call(value) === "[object Request]";
  }

  function parse(text) {
    try {
      return new URL(text, document.baseURI);
    } catch {
      return null; // fetch itself says what is wrong with it
    }
  }
})();
