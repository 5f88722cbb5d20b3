// The ways to call bakrypt's API. `base` is its address and `fetch` calls it. `accessToken` is for
// uploads, where the page has a token.

import { session } from "./session.js";

const { apiUrl, receipts } = document.body.dataset;

// At bakrypt, with a token in the page.
export const withToken = {
  base: apiUrl,
  fetch: (url, init) => session.fetch(url, init),
  accessToken: (options) => session.accessToken(options),
};

// At this server, which adds the token. Cookies that no script can read prove what is whose.
export const withoutToken = {
  base: receipts?.replace(/\/receipts\/?$/, ""),
  fetch: (url, init) => window.fetch(url, init),
};

// Returns what this browser made, newest first; nothing if the server does not let this page call.
export async function madeHere() {
  const response = await window.fetch(receipts);
  return response.ok ? (await response.json()).transactions : [];
}
