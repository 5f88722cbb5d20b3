// What the token opens: a file is uploaded, an asset made of it, and its transaction followed to its end.

import { find, onSubmit, run } from "./actions.js";
import { BakryptError, session } from "./session.js";
import { upload } from "./upload.js";

const { apiUrl } = document.body.dataset;
const POLL = 3000; // ms between looks at a transaction
const OVER = ["confirmed", "rejected", "error", "refund", "canceled"];

let image;
let transaction = null; // the uuid of the one that is followed

export function useApi(calls) {
  onSubmit("#upload", (form) => uploadFile(form, calls));
  onSubmit("#asset", createAsset);
  find("#mint")?.addEventListener("click", ({ target }) => run(target, mint));
}

// Forgets what was made with a token that is no longer there.
export function forgetResults() {
  image = undefined;
  transaction = null;
  for (const box of document.querySelectorAll("#uploaded, #created")) box.hidden = true;
}

async function uploadFile(form, calls) {
  const token = await session.accessToken();
  const bar = find("#uploading");
  const url = `${apiUrl}/v1/files/`;
  const { name, size } = form.elements.file.files[0];
  const end = calls.begin("POST", url, [["authorization", `Bearer ${token}`]], `file: ${name}, ${bytes(size)}`);
  bar.hidden = false;
  bar.value = 0;
  try {
    const reply = await upload(url, token, new FormData(form), (share) => (bar.value = share)).catch((error) => {
      end();
      throw error;
    });
    end(reply);
    const attachment = accept(reply);
    image = attachment.ipfs;
    fill("#uploaded", { filename: attachment.filename, size: bytes(attachment.size), ipfs: image });
  } catch (error) {
    throw asOurs(error);
  } finally {
    bar.hidden = true;
  }
}

async function createAsset(form) {
  const { name, amount } = Object.fromEntries(new FormData(form));
  const members = { blockchain: "ada", name, amount: Number(amount), ...(image && { image }) };
  const asset = await call("POST", "/v1/assets/", members);
  const { uuid, cost } = asset.transaction;
  fill("#created", { uuid: asset.uuid, transaction: uuid, cost: `${cost} ADA` });
  show(asset.transaction);
  setTimeout(follow, POLL, uuid);
}

const mint = async () => show(await call("POST", `/v1/transactions/${transaction}/mint/`));

// Looks at a transaction until its story is over, or another is on the page.
async function follow(uuid) {
  if (transaction !== uuid) return;
  const current = await call("GET", `/v1/transactions/${uuid}/`).catch(() => null); // the list of calls shows why
  if (transaction !== uuid) return;
  if (current) show(current);
  setTimeout(follow, POLL, uuid);
}

function show({ uuid, status, status_description }) {
  transaction = OVER.includes(status) ? null : uuid;
  fill("#created", { status, status_description });
  find("#mint").hidden = status !== "waiting";
}

async function call(method, path, members) {
  const body = members && { body: JSON.stringify(members), headers: { "Content-Type": "application/json" } };
  try {
    const response = await session.fetch(`${apiUrl}${path}`, { method, ...body });
    return accept({ status: response.status, headers: response.headers, body: await response.text() });
  } catch (error) {
    throw asOurs(error);
  }
}

// Returns the body of a good reply.
function accept({ status, headers, body }) {
  let members = {};
  try {
    members = JSON.parse(body);
  } catch {} // not JSON: the status says enough
  if (status < 400) return members;
  const said = members.error_description ?? members.detail ?? Object.values(members).flat().join(" ");
  throw new BakryptError(status, members.error ?? "", said, Number(headers.get("Retry-After")) || undefined);
}

// A TypeError is how fetch says that there is no reply.
const asOurs = (error) => (error instanceof TypeError ? new BakryptError(0, "network_error", error.message) : error);

const bytes = (count) => `${count.toLocaleString()} bytes`;

function fill(selector, members) {
  for (const [name, value] of Object.entries(members)) find(`${selector} [data-member=${name}]`).textContent = value;
  find(selector).hidden = false;
}
