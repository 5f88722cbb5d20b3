// The calls that the page makes, laid open: each is listed with what was sent and what came back, secrets masked.

const KEPT = 30;
const DOTS = "•".repeat(8);
const SECRETS = new Set(["password", "access_token", "refresh_token", "rejected_token", "deposit_address"]);

// The first letters of a token stay: they tell one from the next, and open nothing.
const mask = (name, value) =>
  !SECRETS.has(name) || typeof value !== "string" ? value : name === "password" ? DOTS : value.slice(0, 4) + DOTS;

const maskHeader = ([name, value]) =>
  `${name}: ${/^authorization$/i.test(name) ? value.replace(/(\S+ .{0,4}).*/, `$1${DOTS}`) : value}`;

function layOut(firstLine, headers, body) {
  return [firstLine, ...[...headers].map(maskHeader), ...(body ? ["", maskBody(body)] : [])].join("\n");
}

function maskBody(text) {
  try {
    return JSON.stringify(JSON.parse(text), mask, 2);
  } catch {
    return text;
  }
}

export class Calls {
  #list;
  #template;
  #whenFirst;

  constructor(list, template, whenFirst) {
    this.#list = list;
    this.#template = template;
    this.#whenFirst = whenFirst;
  }

  // Lists a call that begins; the function that is returned is called with its reply, or with nothing if there is none.
  begin(method, url, headers, body) {
    this.#whenFirst();
    const item = this.#template.content.cloneNode(true).firstElementChild;
    const put = (name, text) => (item.querySelector(`.${name}`).textContent = text);
    const { origin, pathname } = new URL(url, location);
    const began = performance.now();
    const line = `${method} ${origin === location.origin ? "" : origin}${pathname}`;
    put("line", line);
    put("request", layOut(line, headers, body));
    this.#replace(item, line);
    return (reply) => {
      item.dataset.kind = reply?.status < 400 ? "good" : "bad";
      put("status", reply?.status ?? "no reply");
      put("took", `${Math.round(performance.now() - began)} ms`);
      put("reply", reply ? layOut(`${reply.status} ${reply.statusText}`, reply.headers, reply.body) : "none");
    };
  }

  // Puts a call at the top. A GET that is only repeated takes the place of the one before.
  #replace(item, line) {
    const top = this.#list.firstElementChild;
    if (line.startsWith("GET ") && top?.querySelector(".line").textContent === line) {
      item.querySelector("details").open = top.querySelector("details").open;
      top.replaceWith(item);
    } else this.#list.prepend(item);
    while (this.#list.children.length > KEPT) this.#list.lastElementChild.remove();
  }

  // Lists whatever is fetched from now on, by this page or by a module that it uses.
  watchFetch() {
    const send = window.fetch.bind(window);
    window.fetch = async (input, init) => {
      const request = new Request(input, init);
      const body = await request.clone().text();
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
