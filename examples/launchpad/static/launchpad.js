// The component forgets its transaction when the page is reloaded. The receipts still know it.

const receipts = document.body.dataset.receipts;
const launchpad = document.querySelector("bakrypt-launchpad");
const made = document.querySelector("#made");

const { transactions } = await get(receipts);
for (const uuid of transactions) made.append(invoice(uuid));
if (transactions.length) {
  made.hidden = false;
  made.querySelector("details").open = true; // the newest
}

// Only an invoice that somebody opens is asked for, and polls.
function invoice(uuid) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = `Transaction ${uuid}`;
  details.append(summary);
  details.addEventListener("toggle", async () => details.append(await show(uuid)), { once: true });
  return details;
}

async function show(uuid) {
  const transaction = await get(
    new URL(`../v1/transactions/${uuid}/`, new URL(receipts, location)),
  );
  const testnet = launchpad.hasAttribute("testnet");
  return Object.assign(document.createElement("bakrypt-invoice"), {
    transaction,
    testnet,
    accessToken: true,
  });
}

async function get(url) {
  const response = await fetch(url);
  const body = await response.json();
  if (!response.ok) {
    document.querySelector("[role=alert]").textContent = body.error_description;
    throw new Error(body.error_description);
  }
  return body;
}
