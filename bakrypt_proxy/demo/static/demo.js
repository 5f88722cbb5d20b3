// The page's behaviour. Tokens stay in this module's memory: neither in storage nor in the address.

const { exchangeUrl, tokenUrl, apiUrl } = document.body.dataset;
const find = (selector) => document.querySelector(selector);
const MASK = "•".repeat(24);

let token = null;
let endsAt = 0;

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
    throw new Problem("No answer.", "The server could not be reached. Is it still running?", "network");
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  throw explain(response, body);
}

function explain(response, body) {
  const code = `${response.status} ${body.error ?? ""}`.trim();
  const wait = response.headers.get("Retry-After");
  const said = body.error_description ?? body.detail ?? Object.values(body).flat().join(" ");
  switch (body.error ?? response.status) {
    case "invalid_grant":
      return new Problem("That was not accepted.", said || "This token can no longer be refreshed: sign in again.", code);
    case "access_denied":
      return new Problem("This server does not let you in.", said, code);
    case "too_many_requests":
    case 429:
      return new Problem("Too many attempts.", wait ? `Try again in ${wait} seconds.` : "Try again later.", code);
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
  box.querySelector("p").textContent = problem.advice;
  box.querySelector("code").textContent = problem.code;
}

// Runs what a button stands for: the button is off meanwhile, and what goes wrong is shown.
async function run(button, action) {
  showProblem(null);
  button.disabled = true;
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(error);
  } finally {
    button.disabled = false;
    tick();
  }
}

function keep(newToken) {
  token = newToken;
  endsAt = newToken === null ? 0 : performance.now() + newToken.expires_in * 1000;
  find("#token").hidden = token === null;
  find("#no-token").hidden = token !== null;
  showToken(false);
  if (token === null) return;
  find("[data-member=scope]").textContent = token.scope ?? "not said";
  find("#refresh").hidden = !token.refresh_token;
  find("#no-refresh").hidden = Boolean(token.refresh_token);
  tick();
}

function showToken(shown) {
  const button = find("#show");
  button.textContent = shown ? "Hide the token" : "Show the token";
  button.setAttribute("aria-pressed", String(shown));
  find("[data-member=access_token]").textContent = shown && token ? token.access_token : MASK;
}

function tick() {
  const left = Math.max(0, (endsAt - performance.now()) / 1000);
  const upload = find("#upload button");
  if (upload) upload.disabled = left === 0;
  if (token === null) return;
  find("#left").textContent = left > 0 ? duration(left) : "over";
  find("#life").value = left / token.expires_in;
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
  const attachment = await call(`${apiUrl}/v1/files/`, { method: "POST", body: new FormData(form), headers });
  for (const member of ["filename", "size", "ipfs"]) {
    find(`#uploaded [data-member=${member}]`).textContent =
      member === "size" ? `${attachment.size.toLocaleString()} bytes` : attachment[member];
  }
  find("#uploaded").hidden = false;
});

find("#refresh").addEventListener("click", (event) =>
  run(event.target, async () =>
    keep(await postForm(tokenUrl, { grant_type: "refresh_token", refresh_token: token.refresh_token })),
  ),
);
find("#show").addEventListener("click", (event) => showToken(event.target.getAttribute("aria-pressed") === "false"));
find("#forget").addEventListener("click", () => keep(null));
setInterval(tick, 1000);
