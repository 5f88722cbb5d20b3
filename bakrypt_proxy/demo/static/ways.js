// The ways to call bakrypt's API: `base` is where it is, `fetch` calls it, `accessToken`, if there is one, is for uploads.

import { session } from "./session.js";

const { apiUrl, receipts } = document.body.dataset;

// At bakrypt, with a token in the page.
export const withToken = {
  base: apiUrl,
  fetch: (url, init) => session.fetch(url, init),
  accessToken: (options) => session.accessToken(options),
};

// At this server, which adds the token. Cookies that scripts cannot read say what this browser made.
export const withoutToken = {
  base: receipts?.replace(/\/receipts\/?$/, ""),
  fetch: (url, init) => window.fetch(url, init),
};

// Returns what this browser made, newest first; nothing if the server does not let this page call.
export async function madeHere() {
  const response = await window.fetch(receipts);
  return response.ok ? (await response.json()).transactions : [];
}
