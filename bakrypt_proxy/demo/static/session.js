// The page's session, of the module that the proxy serves.

const { module } = document.body.dataset;
const { BakryptSession, BakryptError } = await import(module);

export { BakryptError };
export const session = new BakryptSession({ base: new URL(".", new URL(module, location)).pathname });
