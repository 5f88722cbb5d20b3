// What a button does, with what goes wrong shown to the person who pressed it.

import { BakryptError } from "./session.js";

const SLOW = 300; // ms until a button says that it is at work

export const find = (selector) => document.querySelector(selector);

// Does it, and shows what goes wrong.
export async function run(action) {
  showProblem(null);
  try {
    await action();
  } catch (error) {
    if (!(error instanceof BakryptError)) throw error;
    if (error.error !== "aborted") showProblem(error); // else another button was pressed meanwhile
  }
}

// The same; the button is off meanwhile, though it keeps the focus.
export async function runOnce(button, action) {
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  const label = button.textContent;
  const slow = setTimeout(() => (button.textContent = button.dataset.busy), SLOW);
  await run(action).finally(() => {
    clearTimeout(slow);
    button.textContent = label;
    button.setAttribute("aria-disabled", "false");
  });
}

export function onSubmit(selector, action) {
  find(selector)?.addEventListener("submit", (event) => {
    event.preventDefault();
    runOnce(event.submitter ?? event.target.querySelector("button"), () => action(event.target));
  });
}

export const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

function showProblem(error) {
  const box = find("#problem");
  box.hidden = error === null;
  if (error === null) return;
  const [headline, advice] = explain(error);
  box.querySelector("strong").textContent = headline;
  box.querySelector("p").textContent = advice ? sentence(advice) : "";
  box.querySelector("code").textContent = error.status ? `${error.status} ${error.error}`.trim() : "no reply";
  box.scrollIntoView({ block: "nearest" });
}

function explain({ status, error, description, retryAfter }) {
  switch (error || status) {
    case "network_error":
    case "timeout":
      return ["No answer.", "The server could not be reached. Is it still running?"];
    case "invalid_grant":
      return ["That was not accepted.", description];
    case "access_denied":
      return ["This server does not let you in.", description];
    case "too_many_requests":
    case 429:
      return ["Too many attempts.", retryAfter ? `Try again in ${retryAfter} seconds.` : "Try again later."];
    case "login_required":
    case 401:
      return ["The token is not accepted any more.", "Get a new one and try again."];
    case "bad_reply":
      return ["That was no answer of this server.", "Something between it and the page replied."];
    case "temporarily_unavailable":
      return ["The server is busy.", "Try again in a moment."];
    case "server_error":
      return ["The server could not do that.", description];
    default:
      return ["That did not work.", description];
  }
}
