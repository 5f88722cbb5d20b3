// Forms that call bakrypt's API: a file is uploaded, an asset made of it, and its transaction
// followed to its end.

import { find, onSubmit, runOnce } from "./actions.js";
import { BakryptError } from "./session.js";
import { upload } from "./upload.js";

const POLL = 3000; // ms between looks at a transaction
const OVER = ["confirmed", "rejected", "error", "refund", "canceled"];
const REPEATS = 3; // of a file that the server could not take just then

export class ApiForms {
  #prefix;
  #way;
  #calls;
  #image;
  #transaction = null; // the uuid of the one that is followed
  #owner = 0; // changes with the user: what is on its way then belongs to nobody on the page

  // `prefix` is that of the elements' ids. `way` is how the API is called: see ways.js.
  constructor(prefix, way, calls) {
    this.#prefix = prefix;
    this.#way = way;
    this.#calls = calls;
    onSubmit(`#${prefix}upload`, (form) => this.#uploadFile(form));
    onSubmit(`#${prefix}asset`, (form) => this.#createAsset(form));
    this.#find("mint")?.addEventListener("click", ({ target }) =>
      runOnce(target, () => this.#mint()),
    );
  }

  // Forgets what was made with a token that is no longer there.
  forget() {
    this.#image = undefined;
    this.#transaction = null;
    this.#owner += 1;
    for (const name of ["uploaded", "created"]) this.#find(name)?.toggleAttribute("hidden", true);
  }

  // Shows a transaction that was made before the page was loaded, and follows it to its end.
  async resume(uuid) {
    const found = await this.#call("GET", `/v1/transactions/${uuid}/`);
    this.#showCreated("made before", found);
  }

  async #uploadFile(form) {
    const asked = this.#owner;
    const bar = this.#find("uploading");
    bar.hidden = false;
    bar.value = 0;
    try {
      const attachment = await this.#send(form, (share) => (bar.value = share));
      if (asked !== this.#owner) return;
      this.#image = attachment.ipfs;
      this.#fill("uploaded", {
        filename: attachment.filename,
        size: bytes(attachment.size),
        ipfs: attachment.ipfs,
      });
    } finally {
      bar.hidden = true;
    }
  }

  // Sends the file and returns the attachment. If its token is refused, the token is renewed and
  // the file is sent once more.
  async #send(form, onProgress, { repeats = REPEATS, rejected } = {}) {
    const url = `${this.#way.base}/v1/files/`;
    const token = await this.#way.accessToken?.({ rejected });
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    const { name, size } = form.elements.file.files[0];
    const end = this.#calls.begin(
      "POST",
      url,
      Object.entries(headers),
      `file: ${name}, ${bytes(size)}`,
    );
    const reply = await upload(url, headers, new FormData(form), onProgress).catch((error) => {
      end();
      throw unreachable(error);
    });
    end(reply);
    if (reply.status === 401 && token && !rejected)
      return this.#send(form, onProgress, { rejected: token });
    if (reply.status === 503 && reply.headers.has("Retry-After") && repeats) {
      await new Promise((done) =>
        setTimeout(done, Number(reply.headers.get("Retry-After")) * 1000),
      );
      return this.#send(form, onProgress, { repeats: repeats - 1, rejected });
    }
    return accept(reply);
  }

  async #createAsset(form) {
    const asked = this.#owner;
    const { name, amount } = Object.fromEntries(new FormData(form));
    const image = this.#image;
    const members = { blockchain: "ada", name, amount: Number(amount), ...(image && { image }) };
    const headers = { "Content-Type": "application/json" };
    const asset = await this.#call("POST", "/v1/assets/", {
      body: JSON.stringify(members),
      headers,
    });
    if (asked === this.#owner) this.#showCreated(asset.uuid, asset.transaction);
  }

  async #mint() {
    const uuid = this.#transaction;
    const minted = await this.#call("POST", `/v1/transactions/${uuid}/mint/`);
    if (this.#transaction === uuid) this.#show(minted);
  }

  // Follows a transaction until its end, until another is on the page, or it cannot be read.
  async #follow(uuid) {
    if (this.#transaction !== uuid) return;
    try {
      const current = await this.#call("GET", `/v1/transactions/${uuid}/`);
      if (this.#transaction === uuid) this.#show(current);
    } catch ({ status }) {
      if (status >= 400 && status < 500 && status !== 429) return; // the list of calls shows why
    }
    setTimeout(() => this.#follow(uuid), POLL);
  }

  #showCreated(asset, transaction) {
    const { uuid, cost } = transaction;
    this.#fill("created", { uuid: asset, transaction: uuid, cost: `${cost} ADA` });
    this.#show(transaction);
    setTimeout(() => this.#follow(uuid), POLL);
  }

  #show({ uuid, status, status_description }) {
    this.#transaction = OVER.includes(status) ? null : uuid;
    this.#fill("created", { status, status_description });
    const button = this.#find("mint");
    if (!button) return;
    if (status !== "waiting" && document.activeElement === button) this.#find("created").focus();
    button.hidden = status !== "waiting";
  }

  async #call(method, path, init) {
    const response = await this.#way
      .fetch(`${this.#way.base}${path}`, { method, ...init })
      .catch((error) => {
        throw unreachable(error);
      });
    return accept({
      status: response.status,
      headers: response.headers,
      body: await response.text(),
    });
  }

  #fill(box, members) {
    for (const [name, value] of Object.entries(members)) {
      const element = this.#find(box).querySelector(`[data-member=${name}]`);
      // An unchanged text that is set again would be read out again.
      if (element.textContent !== String(value)) element.textContent = value;
    }
    this.#find(box).hidden = false;
  }

  #find(name) {
    return find(`#${this.#prefix}${name}`);
  }
}

// Returns the body of a good reply.
function accept({ status, headers, body }) {
  let members = {};
  try {
    members = JSON.parse(body) ?? {};
  } catch {} // not JSON: the status says enough
  if (status < 400) return members;
  const said =
    members.error_description ?? members.detail ?? Object.values(members).flat().join(" ");
  throw new BakryptError(
    status,
    members.error ?? "",
    said,
    Number(headers.get("Retry-After")) || undefined,
  );
}

// A TypeError is how fetch says that there is no reply.
const unreachable = (error) =>
  error instanceof TypeError ? new BakryptError(0, "network_error", error.message) : error;

const bytes = (count) => `${count.toLocaleString()} bytes`;
