// The component has bakrypt's addresses built in. Without an account, send its calls to the sandbox instead.

const { apiUrl } = document.querySelector("[data-api-url]").dataset;
const send = window.fetch;
window.fetch = (input, init) =>
  send(typeof input === "string" ? input.replace(/^https:\/\/(testnet\.)?bakrypt\.io/, apiUrl) : input, init);
