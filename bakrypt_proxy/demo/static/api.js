// What the token opens: a file is uploaded, an asset made of it, and its transaction followed to its end.

import { find, onSubmit, runOnce } from "./actions.js";
import { BakryptError, session } from "./session.js";
import { upload } from "./upload.js";

const { apiUrl } = document.body.dataset;
const POLL = 3000; // ms between looks at a transaction
const OVER = ["confirmed", "rejected", "error", "refund", "canceled"];

let image;
let transaction = null; // the uuid of the one that is followed
let owner = 0; // changes with the user: what is on its way then belongs to nobody on the page

export function useApi(calls) {
  onSubmit("#upload", (form) => uploadFile(form, calls));
  onSubmit("#asset", createAsset);
  find("#mint")?.addEventListener("click", ({ target }) => runOnce(target, mint));
}

// Forgets what was made with a token that is no longer there.
export function forgetResults() {
  image = undefined;
  transaction = null;
  owner += 1;
  for (const box of document.querySelectorAll("#uploaded, #created")) box.hidden = true;
}

async function uploadFile(form, calls) {
  const asked = owner;
  const bar = find("#uploading");
  bar.hidden = false;
  bar.value = 0;
  try {
    const attachment = await send(form, calls, (share) => (bar.value = share));
    if (asked !== owner) return;
    image = attachment.ipfs;
    fill("#uploaded", { filename: attachment.filename, size: bytes(attachment.size), ipfs: image });
  } finally {
    bar.hidden = true;
  }
}

// Sends the file and returns the attachment. A token that is refused is renewed, and the file is sent once more.
async function send(form, calls, onProgress, rejected) {
  const url = `${apiUrl}/v1/files/`;
  const token = await session.accessToken({ rejected });
  const { name, size } = form.elements.file.files[0];
  const end = calls.begin("POST", url, [["authorization", `Bearer ${token}`]], `file: ${name}, ${bytes(size)}`);
  const reply = await upload(url, token, new FormData(form), onProgress).catch((error) => {
    end();
    throw unreachable(error);
  });
  end(reply);
  return reply.status === 401 && !rejected ? send(form, calls, onProgress, token) : accept(reply);
}

async function createAsset(form) {
  const asked = owner;
  const { name, amount } = Object.fromEntries(new FormData(form));
  const members = { blockchain: "ada", name, amount: Number(amount), ...(image && { image }) };
  const headers = { "Content-Type": "application/json" };
  const asset = await call("POST", "/v1/assets/", { body: JSON.stringify(members), headers });
  if (asked !== owner) return;
  const { uuid, cost } = asset.transaction;
  fill("#created", { uuid: asset.uuid, transaction: uuid, cost: `${cost} ADA` });
  show(asset.transaction);
  setTimeout(follow, POLL, uuid);
}

async function mint() {
  const uuid = transaction;
  const minted = await call("POST", `/v1/transactions/${uuid}/mint/`);
  if (transaction === uuid) show(minted);
}

// Looks at a transaction until its story is over, or another is on the page, or it is not to be had any more.
async function follow(uuid) {
  if (transaction !== uuid) return;
  try {
    const current = await call("GET", `/v1/transactions/${uuid}/`);
    if (transaction === uuid) show(current);
  } catch ({ status }) {
    if (status >= 400 && status < 500 && status !== 429) return; // the list of calls shows why
  }
  setTimeout(follow, POLL, uuid);
}

function show({ uuid, status, status_description }) {
  transaction = OVER.includes(status) ? null : uuid;
  fill("#created", { status, status_description });
  const button = find("#mint");
  if (status !== "waiting" && document.activeElement === button) find("#created").focus();
  button.hidden = status !== "waiting";
}

async function call(method, path, init) {
  const response = await session.fetch(`${apiUrl}${path}`, { method, ...init }).catch((error) => {
    throw unreachable(error);
  });
  return accept({ status: response.status, headers: response.headers, body: await response.text() });
}

// Returns the body of a good reply.
function accept({ status, headers, body }) {
  let members = {};
  try {
    members = JSON.parse(body) ?? {};
  } catch {} // not JSON: the status says enough
  if (status < 400) return members;
  const said = members.error_description ?? members.detail ?? Object.values(members).flat().join(" ");
  throw new BakryptError(status, members.error ?? "", said, Number(headers.get("Retry-After")) || undefined);
}

// A TypeError is how fetch says that there is no reply.
const unreachable = (error) => (error instanceof TypeError ? new BakryptError(0, "network_error", error.message) : error);

const bytes = (count) => `${count.toLocaleString()} bytes`;

function fill(selector, members) {
  for (const [name, value] of Object.entries(members)) {
    const element = find(`${selector} [data-member=${name}]`);
    if (element.textContent !== String(value)) element.textContent = value; // else it would be read out again
  }
  find(selector).hidden = false;
}
