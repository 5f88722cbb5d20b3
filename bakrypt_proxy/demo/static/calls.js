// The calls that the page makes, laid open: each is listed with what was sent and what came back, secrets masked.

const KEPT = 30;
const DOTS = "•".repeat(8);
const SECRET = /token$|secret|password|deposit_address/i;

// The first letters of a token stay: they tell one from the next, and open nothing.
function mask(name, value) {
  if (typeof value !== "string" || !SECRET.test(name)) return value;
  return /token$/i.test(name) ? value.slice(0, 4) + DOTS : DOTS;
}

const maskHeader = ([name, value]) =>
  `${name}: ${/^authorization$/i.test(name) ? value.replace(/(\S+ .{0,4}).*/, `$1${DOTS}`) : value}`;

function maskBody(text) {
  try {
    return JSON.stringify(JSON.parse(text), mask, 2);
  } catch {
    return text && `${text.length} letters that are not JSON`;
  }
}

const layOut = (firstLine, headers, body) =>
  [firstLine, ...[...headers].map(maskHeader), ...(body ? ["", body] : [])].join("\n");

export class Calls {
  #list;
  #template;
  #whenFirst;

  constructor(list, template, whenFirst) {
    this.#list = list;
    this.#template = template;
    this.#whenFirst = whenFirst;
  }

  // Lists a call that begins, its body as it may be shown. The function that is returned is called with its reply, or
  // with nothing if there is none.
  begin(method, url, headers, body) {
    this.#whenFirst();
    const { origin, pathname } = new URL(url, location);
    const began = performance.now();
    const line = `${method} ${origin === location.origin ? "" : origin}${pathname}`;
    const item = this.#place(line);
    const put = (name, text) => (item.querySelector(`.${name}`).textContent = text);
    put("line", line);
    put("request", layOut(line, headers, body));
    return (reply) => {
      item.dataset.kind = reply?.status < 400 ? "good" : "bad";
      put("status", reply?.status ?? "no reply");
      put("took", `${Math.round(performance.now() - began)} ms`);
      put("reply", reply ? layOut(`${reply.status} ${reply.statusText}`, reply.headers, maskBody(reply.body)) : "none");
    };
  }

  // Returns the place for a call, at the top. A GET that is only repeated keeps that of the one before.
  #place(line) {
    const top = this.#list.firstElementChild;
    if (line.startsWith("GET ") && top?.querySelector(".line").textContent === line) return top;
    this.#list.prepend(this.#template.content.cloneNode(true));
    while (this.#list.children.length > KEPT) this.#list.lastElementChild.remove();
    return this.#list.firstElementChild;
  }

  // Lists whatever is fetched from now on, by this page or by a module that it uses.
  watchFetch() {
    const send = window.fetch.bind(window);
    window.fetch = async (input, init) => {
      const request = new Request(input, init);
      const body = maskBody(await request.clone().text());
      const end = this.begin(request.method, request.url, request.headers, body);
      const response = await send(request).catch((error) => {
        end();
        throw error;
      });
      const { status, statusText, headers } = response;
      response.clone().text().then((text) => end({ status, statusText, headers, body: text }), () => end());
      return response;
    };
  }
}
