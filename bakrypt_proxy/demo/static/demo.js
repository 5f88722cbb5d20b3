// The page: get a token and watch it. It stays in the session's memory: neither in storage nor in the address.

import { find, onSubmit, run, sentence } from "./actions.js";
import { forgetResults, useApi } from "./api.js";
import { Calls } from "./calls.js";
import { session } from "./session.js";

const MASK = "•".repeat(24);

let life = NaN; // in seconds
let endsAt = NaN; // in ms of performance.now()
let renewals = 0;

async function take(whose, getToken) {
  renewals = -1; // the first token is no renewal
  await getToken();
  forgetResults();
  find("#whose").textContent = whose;
  find("#token").scrollIntoView({ block: "nearest" });
}

function keep({ detail }) {
  life = detail.expiresIn;
  endsAt = performance.now() + life * 1000;
  renewals += 1;
  find("#renewals").textContent = renewals
    ? `${renewals}, the last at ${new Date().toLocaleTimeString()}`
    : "none yet; the first when a tenth of its life is left";
  find("#token").hidden = false;
  showToken(find("#show").dataset.shown === "true");
  tick();
}

function lose({ detail }) {
  const hadFocus = find("#token").contains(document.activeElement);
  life = endsAt = NaN;
  find("#token").hidden = true;
  find("#whose").textContent = sentence(detail);
  forgetResults();
  showToken(false);
  tick();
  if (hadFocus) find("#exchange button").focus();
}

async function showToken(shown) {
  const button = find("#show");
  button.textContent = shown ? "Hide" : "Show";
  button.dataset.shown = String(shown);
  find("#access-token").textContent = shown ? await session.accessToken() : MASK;
}

async function copyToken() {
  await navigator.clipboard.writeText(await session.accessToken());
  find("#copied").textContent = "Copied.";
  setTimeout(() => (find("#copied").textContent = ""), 2000);
}

function tick() {
  const left = Math.max(0, (endsAt - performance.now()) / 1000);
  for (const button of document.querySelectorAll("#upload button, #asset button")) button.disabled = !(left > 0);
  find("#life").hidden = !(life > 0);
  find("#life").value = left / life || 0;
  find("#left").textContent = !(life > 0) ? "not said" : left > 0 ? duration(left) : "over";
}

function duration(seconds) {
  const whole = Math.ceil(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const names = ["h", "min", "s"];
  return parts.map((part, i) => (part || i === 2 ? `${part} ${names[i]}` : "")).filter(Boolean).join(" ");
}

const calls = new Calls(find("#calls"), find("#call"), () => (find("#no-calls").hidden = true));
calls.watchFetch();
useApi(calls);

onSubmit("#exchange", () => take("It belongs to the account of this server.", () => session.exchange()));
onSubmit("#sign-in", async (form) => {
  const { username, password } = Object.fromEntries(new FormData(form));
  await take(`It belongs to ${username}.`, () => session.signIn(username, password));
  form.reset();
});
find("#show").addEventListener("click", ({ target }) => showToken(target.dataset.shown !== "true"));
find("#copy").hidden = !navigator.clipboard;
find("#copy").addEventListener("click", ({ target }) => run(target, copyToken));
find("#sign-out").addEventListener("click", () => session.signOut());

session.addEventListener("renewed", keep);
session.addEventListener("lost", lose);
setInterval(tick, 1000);

// Another tab may hold a token already.
renewals = -1;
session.accessToken().then(
  () => (find("#whose").textContent = "It is the one of another tab."),
  () => {},
);
