import { BakryptSession } from "/auth/bakrypt.js";

const status = document.querySelector("#assets");
const session = new BakryptSession({ base: "/auth" });

// First sign out of the app, then remove the token from all tabs. Each tab then loads the page without it.
document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const body = new FormData(event.target); // the CSRF token
    const response = await fetch(event.target.action, { method: "POST", body });
    if (!response.ok) throw new Error(response.statusText); // the CSRF token is too old
    session.signOut();
    location.reload();
  } catch {
    status.textContent = "You are not signed out: reload the page and try again.";
  }
});
session.addEventListener("lost", () => location.reload());

try {
  await session.exchange();
  const response = await session.fetch(`${document.body.dataset.apiUrl}/v1/assets/`);
  const { count } = await response.json();
  status.textContent = `The account has ${count} assets.`;
} catch (error) {
  status.textContent = error.message;
}
