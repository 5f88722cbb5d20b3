// The module and the tokens come from another origin. It must list this one in BAKRYPT_ALLOWED_ORIGINS.

const { proxy } = document.documentElement.dataset;
const form = document.querySelector("form");
const say = (text) => (document.querySelector("[role=status]").textContent = text);

// Not a static import: if that failed, only the console would show the reason.
const { BakryptSession } = await import(`${proxy}/bakrypt.js`).catch((error) => {
  say(`No response from ${proxy}: is it running, and does its BAKRYPT_ALLOWED_ORIGINS list ${location.origin}?`);
  throw error;
});

const session = new BakryptSession({ base: proxy });
let tokens = 0;
session.addEventListener("renewed", ({ detail }) => say(`Token ${++tokens}: it lives ${Math.round(detail.expiresIn)} s.`));
session.addEventListener("lost", ({ detail }) => {
  say(`Sign in again: ${detail}.`);
  form.hidden = false;
});

form.hidden = false;
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { username, password } = Object.fromEntries(new FormData(form));
  try {
    await session.signIn(username, password);
    form.hidden = true;
  } catch (error) {
    say(error.message);
  }
});
