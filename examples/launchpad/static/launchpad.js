import { BakryptSession } from "/auth/bakrypt.js";

const launchpad = document.querySelector("bakrypt-launchpad");
const session = new BakryptSession({ base: "/auth" });

// The component never renews its token: it is handed each new one, the first as well.
session.addEventListener("renewed", async () => launchpad.setAttribute("access-token", await session.accessToken()));

try {
  await session.exchange();
} catch (error) {
  document.querySelector("[role=alert]").textContent = error.message;
}
