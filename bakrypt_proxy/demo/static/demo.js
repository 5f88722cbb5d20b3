// The page's behaviour. Tokens stay in this module's memory: neither in storage nor in the address.

const { exchangeUrl, tokenUrl, apiUrl } = document.body.dataset;
const find = (selector) => document.querySelector(selector);
const MASK = "•".repeat(24);

let token = null;
let life = NaN; // in seconds; NaN where the reply did not say
let endsAt = NaN;

class Problem extends Error {
  constructor(headline, advice, code) {
    super(headline);
    Object.assign(this, { advice, code });
  }
}

async function call(url, init) {
  let response;
  try {
    response = await fetch(url, init);
  } catch {
    throw new Problem("No answer.", "The server could not be reached. Is it still running?", "no reply");
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  throw explain(response, body);
}

function explain(response, body) {
  const code = `${response.status} ${body.error ?? ""}`.trim();
  const wait = response.headers.get("Retry-After") ?? "";
  const said = body.error_description ?? body.detail ?? Object.values(body).flat().join(" ");
  switch (body.error ?? response.status) {
    case "invalid_grant":
      return new Problem("That was not accepted.", said || "This token can no longer be refreshed: sign in again.", code);
    case "access_denied":
      return new Problem("This server does not let you in.", said, code);
    case "too_many_requests":
    case 429:
      return new Problem("Too many attempts.", /^\d+$/.test(wait) ? `Try again in ${wait} seconds.` : "Try again later.", code);
    case 401:
      return new Problem("The token is not accepted any more.", "Get a new one and try again.", code);
    case "server_error":
      return new Problem("The server could not get a token.", said, code);
    default:
      return new Problem("That did not work.", said, code);
  }
}

function showProblem(problem) {
  const box = find("#problem");
  box.hidden = problem === null;
  if (problem === null) return;
  box.querySelector("strong").textContent = problem.message;
  box.querySelector("p").textContent = problem.advice && sentence(problem.advice);
  box.querySelector("code").textContent = problem.code;
  box.scrollIntoView({ block: "nearest" });
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

// Runs what a button stands for: the button is off meanwhile, though it keeps the focus, and what goes wrong is shown.
async function run(button, action) {
  if (button.getAttribute("aria-disabled") === "true") return;
  showProblem(null);
  button.setAttribute("aria-disabled", "true");
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(error);
  } finally {
    button.setAttribute("aria-disabled", "false");
  }
}

function keep(newToken, { ofSameUser = false } = {}) {
  token = newToken;
  if (find("#uploaded") && !ofSameUser) find("#uploaded").hidden = true;
  life = Number(newToken?.expires_in);
  endsAt = performance.now() + life * 1000;
  find("#token").hidden = token === null;
  find("#no-token").hidden = token !== null;
  showToken(false);
  tick();
  if (token === null) return;
  find("[data-member=scope]").textContent = token.scope ?? "not said";
  find("#refresh").hidden = !token.refresh_token;
  find("#no-refresh").hidden = Boolean(token.refresh_token);
  find("#token").scrollIntoView({ block: "nearest" });
}

function showToken(shown) {
  const button = find("#show");
  button.textContent = shown ? "Hide the token" : "Show the token";
  button.dataset.shown = String(shown);
  find("[data-member=access_token]").textContent = shown && token ? token.access_token : MASK;
}

function tick() {
  const left = Math.max(0, (endsAt - performance.now()) / 1000);
  const upload = find("#upload button");
  if (upload) upload.disabled = token === null || left === 0;
  if (token === null) return;
  find("#life").hidden = Number.isNaN(left);
  find("#left").textContent = Number.isNaN(left) ? "not said" : left > 0 ? duration(left) : "over";
  if (!Number.isNaN(left)) find("#life").value = left / life || 0;
}

function duration(seconds) {
  const whole = Math.ceil(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const names = ["h", "min", "s"];
  return parts.map((part, i) => (part || i === 2 ? `${part} ${names[i]}` : "")).filter(Boolean).join(" ");
}

const postForm = (url, fields) => call(url, { method: "POST", body: new URLSearchParams(fields) });

function onSubmit(selector, action) {
  find(selector)?.addEventListener("submit", (event) => {
    event.preventDefault();
    run(event.submitter ?? event.target.querySelector("button"), () => action(event.target));
  });
}

onSubmit("#exchange", async () => keep(await call(exchangeUrl, { method: "POST" })));

onSubmit("#sign-in", async (form) => {
  keep(await postForm(tokenUrl, new FormData(form)));
  form.reset();
});

onSubmit("#upload", async (form) => {
  const headers = { Authorization: `Bearer ${token.access_token}` };
  const used = token;
  const attachment = await call(`${apiUrl}/v1/files/`, { method: "POST", body: new FormData(form), headers });
  if (token !== used) return;
  for (const member of ["filename", "size", "ipfs"]) {
    find(`#uploaded [data-member=${member}]`).textContent =
      member === "size" ? `${attachment.size.toLocaleString()} bytes` : attachment[member];
  }
  find("#uploaded").hidden = false;
});

find("#refresh").addEventListener("click", (event) =>
  run(event.target, async () => {
    const old = token;
    const renewed = await postForm(tokenUrl, { grant_type: "refresh_token", refresh_token: old.refresh_token });
    if (token === old) keep(renewed, { ofSameUser: true }); // else it was forgotten, or another taken, meanwhile
  }),
);
find("#show").addEventListener("click", (event) => showToken(event.target.dataset.shown !== "true"));
find("#forget").addEventListener("click", () => {
  keep(null);
  find("#exchange button").focus();
});
setInterval(tick, 1000);
