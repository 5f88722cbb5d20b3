import { BakryptSession } from "/auth/bakrypt.js";

const launchpad = document.querySelector("bakrypt-launchpad");
const session = new BakryptSession({ base: "/auth" });

// The component never renews its token, so set each new one, including the first.
session.addEventListener("renewed", async () => launchpad.setAttribute("access-token", await session.accessToken()));
const say = (text) => (document.querySelector("[role=alert]").textContent = text);
session.addEventListener("lost", ({ detail }) => say(`Load this page again: ${detail}.`));

try {
  await session.exchange();
} catch (error) {
  say(error.message);
}
