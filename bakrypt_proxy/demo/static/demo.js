// The page: call bakrypt without a token, or get a token and watch it. The token stays in the session's memory: neither in storage nor in the address.

import { find, onSubmit, run, sentence } from "./actions.js";
import { ApiForms } from "./api.js";
import { Calls } from "./calls.js";
import { session } from "./session.js";
import { madeHere, withToken, withoutToken } from "./ways.js";

const MASK = "•".repeat(24);

let life = NaN; // in seconds; Infinity if the server does not say
let endsAt = NaN; // in ms of performance.now()
let renewals = 0;
let attempts = 0; // to get a token

async function take(whose, getToken) {
  const before = renewals;
  const attempt = (attempts += 1);
  await getToken();
  if (renewals === before || attempt !== attempts) return; // the same token as before, or another attempt's
  renewals = 0; // the first token is no renewal
  showRenewals();
  tokenForms.forget();
  find("#whose").textContent = whose;
  find("#token").scrollIntoView({ block: "nearest" });
}

function keep({ detail }) {
  life = detail.expiresIn;
  endsAt = performance.now() + life * 1000;
  renewals += 1;
  showRenewals();
  find("#token").hidden = false;
  showToken(isShown()).catch(() => {}); // it is shown at the next renewal
  tick();
}

function showRenewals() {
  find("#renewals").textContent = renewals
    ? `${renewals}, the last at ${new Date().toLocaleTimeString()}`
    : "none yet; the first when a tenth of its life is left";
}

function lose({ detail }) {
  const hadFocus = ["#token", "#created"].some((box) => find(box)?.contains(document.activeElement));
  life = endsAt = NaN;
  find("#token").hidden = true;
  find("#whose").textContent = sentence(detail);
  tokenForms.forget();
  showToken(false);
  tick();
  if (hadFocus) find("#exchange button").focus();
}

async function showToken(shown) {
  const button = find("#show");
  button.textContent = shown ? "Hide" : "Show";
  button.dataset.shown = String(shown);
  find("#access-token").textContent = MASK;
  const token = shown && (await session.accessToken());
  if (token && isShown()) find("#access-token").textContent = token; // it may have been hidden meanwhile
}

const isShown = () => find("#show").dataset.shown === "true";

async function copyToken() {
  const token = await session.accessToken();
  const copied = await navigator.clipboard.writeText(token).then(() => "Copied.", () => "Not allowed here.");
  find("#copied").textContent = copied;
  setTimeout(() => (find("#copied").textContent = ""), 2000);
}

function tick() {
  const left = Math.max(0, (endsAt - performance.now()) / 1000);
  const isSaid = Number.isFinite(life);
  const isUsable = !find("#token").hidden && (left > 0 || !isSaid);
  for (const button of document.querySelectorAll("#upload button, #asset button")) button.disabled = !isUsable;
  find("#life").hidden = !isSaid;
  find("#life").value = left / life || 0;
  find("#left").textContent = !isSaid ? "not said" : left > 0 ? duration(left) : "over";
}

function duration(seconds) {
  const whole = Math.ceil(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const names = ["h", "min", "s"];
  return parts.map((part, i) => (part || i === 2 ? `${part} ${names[i]}` : "")).filter(Boolean).join(" ");
}

const calls = new Calls(find("#calls"), find("#call"), () => (find("#no-calls").hidden = true));
calls.watchFetch();
const tokenForms = new ApiForms("", withToken, calls);
if (find("#public-upload")) {
  const forms = new ApiForms("public-", withoutToken, calls);
  madeHere().then(([newest]) => newest && forms.resume(newest)).catch(() => {}); // the list of calls shows why
}

onSubmit("#exchange", () => take("It belongs to the account of this server.", () => session.exchange()));
onSubmit("#sign-in", async (form) => {
  const { username, password } = Object.fromEntries(new FormData(form));
  await take(`It belongs to ${username}.`, () => session.signIn(username, password));
  form.reset();
});
find("#show").addEventListener("click", () => run(() => showToken(!isShown())));
find("#copy").hidden = !navigator.clipboard;
find("#copy").addEventListener("click", () => run(copyToken));
find("#sign-out").addEventListener("click", () => session.signOut());

session.addEventListener("renewed", keep);
session.addEventListener("lost", lose);
setInterval(tick, 1000);

// Another tab may hold a token already.
take("It is the one of another tab.", () => session.accessToken()).catch(() => {});
