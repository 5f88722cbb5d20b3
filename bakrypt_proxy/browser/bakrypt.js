// @ts-check
/**
 * Access tokens for bakrypt in the browser, from the routes of bakrypt_proxy: renewed ahead of their end, once for all
 * callers and once for all tabs, and kept in memory alone.
 *
 *     import { BakryptSession } from "/auth/bakrypt.js";
 *     const session = new BakryptSession({ base: "/auth" });
 *     await session.exchange();
 *     const reply = await session.fetch("https://testnet.bakrypt.io/v1/assets/");
 */

/**
 * @typedef {{access_token: string, expires_in?: number, token_type?: string, scope?: string, refresh_token?: string}} AccessToken
 * @typedef {"exchange" | "user"} Way
 * @typedef {{token: AccessToken, way: Way, endsAt: number, life: number}} Held  endsAt in ms of Date.now(), life in ms
 */

const ADVISORY = 0.1; // of a life is left when it is renewed
const MANDATORY = 0.02; // of a life is left when callers wait for that
const ASK_TABS = 100; // ms that other tabs have to say that they hold a token
const LONGEST_PAUSE = 30_000; // ms between attempts to renew

/** @param {Held | null} [held] @returns {any} */
const secret = (held) => held?.token.access_token;

/** An error reply of the proxy, or none at all (`status` 0). */
export class BakryptError extends Error {
  /** @param {number} status @param {string} error @param {string} [description] @param {number} [retryAfter] seconds */
  constructor(status, error, description, retryAfter) {
    super(description ?? error);
    this.name = "BakryptError";
    this.status = status;
    this.error = error;
    this.description = description;
    this.retryAfter = retryAfter;
  }

  /** Whether the session is over; after anything else it can be tried again. */
  get isFinal() {
    return [400, 401, 403].includes(this.status);
  }
}

/** @param {string} why @returns {never} */
const refuse = (why) => {
  throw new BakryptError(401, "login_required", why);
};

/** Dispatches `renewed` after each new token, and `lost` when there is no way to get one any more (`event.detail`: why). */
export class BakryptSession extends EventTarget {
  /** @type {Held | null} */ #held = null;
  /** @type {Promise<Held> | null} */ #renewal = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #asking = false;
  /** @type {string | undefined} */ #replaced;
  #pause = 0;
  #notBefore = 0;
  #credentials;
  #url;
  #channel;

  /** @param {{base?: string, credentials?: RequestCredentials}} [options] */
  constructor({ base = "/auth", credentials = "same-origin" } = {}) {
    super();
    this.#credentials = credentials;
    this.#url = new URL(base.replace(/\/$/, ""), location.href);
    this.#channel = new BroadcastChannel(this.#url.href);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
  }

  /** Get a user's token. @param {string} username @param {string} password @returns {Promise<void>} */
  async signIn(username, password) {
    await this.#alone(async () => this.#take("user", await this.#post("token", { username, password })));
  }

  /** Get the account's token, which the server shares among all its callers. @returns {Promise<void>} */
  async exchange() {
    await this.#alone(async () => (await this.#askTabs("exchange")) ?? this.#take("exchange", await this.#post("exchange", {})));
  }

  /** Return a living access token, renewed first if it is about to end. @returns {Promise<string>} */
  async accessToken() {
    const held = this.#held ?? (await this.#askTabs()) ?? refuse("sign in or exchange");
    const left = held.endsAt - Date.now();
    if (left > held.life * ADVISORY) return secret(held);
    const renewal = this.#renew(held);
    if (left > held.life * MANDATORY) {
      renewal.catch(() => {}); // it is said by an event, and tried again
      return secret(held);
    }
    return renewal.then(
      (renewed) => secret(renewed),
      (error) => {
        if (Date.now() < held.endsAt && !error.isFinal) return secret(held);
        throw error;
      },
    );
  }

  /**
   * `fetch` with the access token. After a 401 the token is renewed and the request sent once more, if its body can be.
   * @param {RequestInfo | URL} input @param {RequestInit} [init] @returns {Promise<Response>}
   */
  async fetch(input, init = {}) {
    const send = async (/** @type {string} */ token) => {
      const request = new Request(input instanceof Request ? input.clone() : input, init);
      request.headers.set("Authorization", `Bearer ${token}`);
      return fetch(request);
    };
    const token = await this.accessToken();
    const response = await send(token);
    if (response.status !== 401 || init.body instanceof ReadableStream || !this.#held) return response;
    const held = secret(this.#held) === token ? await this.#renew(this.#held, true) : this.#held;
    return send(secret(held));
  }

  /** Forget the token, in all tabs. */
  signOut() {
    this.#end("signed out");
  }

  /** @param {Held} old @param {boolean} [rejected] @returns {Promise<Held>} */
  #renew(old, rejected = false) {
    this.#renewal ??= this.#alone(() => this.#renewAlone(old, rejected)).finally(() => (this.#renewal = null));
    return this.#renewal;
  }

  /** @param {Held} old @param {boolean} rejected @returns {Promise<Held>} */
  async #renewAlone(old, rejected) {
    // Looked at again: another tab may have renewed it while this one waited for the lock, and its message be on its way.
    if (this.#held === old) await this.#askTabs();
    if (this.#held !== old) return this.#held ?? refuse("signed out");
    if (Date.now() < this.#notBefore) throw new BakryptError(0, "temporarily_unavailable", "try again later");
    const { access_token, refresh_token } = old.token;
    let token;
    try {
      if (old.way === "exchange") token = await this.#post("exchange", rejected ? { rejected_token: access_token } : {});
      else if (refresh_token) token = await this.#post("token", { grant_type: "refresh_token", refresh_token });
      else return refuse("no refresh token");
    } catch (/** @type {any} */ error) {
      if (error.isFinal) this.#end(error.message);
      else this.#holdOff(error);
      throw error;
    }
    // Signed out, or in anew, meanwhile: the reply is of a session that is over.
    if (this.#held !== old) return this.#held ?? refuse("signed out");
    return this.#take(old.way, token, old);
  }

  /** @param {BakryptError} error */
  #holdOff(error) {
    this.#pause = Math.min(this.#pause * 2 || 1000, LONGEST_PAUSE);
    this.#notBefore = Date.now() + (error.retryAfter ? error.retryAfter * 1000 : this.#pause * (0.5 + Math.random()));
    this.#schedule(this.#notBefore);
  }

  /** @param {Way} way @param {AccessToken} token @param {Held} [old] that it renews, here and in other tabs @returns {Held} */
  #take(way, token, old) {
    // A shared token in its last second says 0: it is renewed at once, and not only when it is asked for.
    const life = Math.max(Number(token.expires_in), 1) * 1000 || 0;
    const held = { way, token, life, endsAt: Date.now() + life };
    this.#replaced = secret(old);
    this.#keep(held);
    this.#channel.postMessage({ held, replaced: this.#replaced });
    return held;
  }

  /** @param {Held} held */
  #keep(held) {
    this.#held = held;
    this.#pause = this.#notBefore = 0;
    this.#schedule(held.endsAt - held.life * ADVISORY);
    this.dispatchEvent(new CustomEvent("renewed", { detail: { expiresIn: (held.endsAt - Date.now()) / 1000 } }));
  }

  /** @param {number} at */
  #schedule(at) {
    clearTimeout(this.#timer);
    const delay = Math.max(0, at - Date.now());
    // A timer holds 24 days at most; a token without a life is renewed when it is asked for.
    if (this.#held?.life && delay < 2 ** 31) this.#timer = setTimeout(() => this.accessToken().catch(() => {}), delay);
  }

  /** End the session here and in the tabs that hold the same token. @param {string} why */
  #end(why) {
    this.#channel.postMessage({ over: why, replaced: secret(this.#held) });
    this.#drop(why);
  }

  /** @param {string} why */
  #drop(why) {
    clearTimeout(this.#timer);
    if (!this.#held) return;
    this.#held = null;
    this.dispatchEvent(new CustomEvent("lost", { detail: why }));
  }

  /** @param {{held?: Held, over?: string, replaced?: string, ask?: boolean}} message of another tab */
  #hear({ held, over, replaced, ask }) {
    const own = this.#held;
    const isOurs = own && secret(own) === replaced;
    if (ask && own) this.#channel.postMessage({ held: own, replaced: this.#replaced });
    else if (over && isOurs) this.#drop(over);
    else if (held && (own ? isOurs || own.way + held.way === "exchangeexchange" : this.#asking)) this.#keep(held);
  }

  /** Ask the other tabs for a token. @param {Way} [way] @returns {Promise<Held | null>} */
  #askTabs(way) {
    const fits = () => (this.#held && (!way || this.#held.way === way) && this.#held.endsAt > Date.now() ? this.#held : null);
    this.#asking = true;
    this.#channel.postMessage({ ask: true });
    return new Promise((resolve) => {
      const stop = () => {
        clearTimeout(timer);
        this.#asking = false;
        this.removeEventListener("renewed", stop);
        resolve(fits());
      };
      const timer = setTimeout(stop, ASK_TABS);
      this.addEventListener("renewed", stop);
    });
  }

  /** One tab at a time. @template T @param {() => Promise<T>} work @returns {Promise<T>} */
  async #alone(work) {
    return navigator.locks ? navigator.locks.request(this.#url.href, work) : work();
  }

  /** @param {string} route @param {Record<string, string>} body @returns {Promise<AccessToken>} */
  async #post(route, body) {
    const response = await fetch(`${this.#url}/${route}/`, {
      method: "POST",
      credentials: this.#credentials,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    }).catch(() => {
      // A browser does not say whether it was the network or CORS; only a page of another origin can meet the latter.
      const { origin } = location;
      const hint = this.#url.origin === origin ? "" : `: is it up, and does its BAKRYPT_ALLOWED_ORIGINS list ${origin}?`;
      throw new BakryptError(0, "network_error", `no reply${hint}`);
    });
    const reply = await response.json().catch(() => ({}));
    if (response.ok) return reply;
    const retryAfter = Number(response.headers.get("Retry-After")) || undefined;
    throw new BakryptError(response.status, reply.error ?? "server_error", reply.error_description, retryAfter);
  }
}
