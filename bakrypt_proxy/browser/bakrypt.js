// @ts-check
/**
 * Access tokens for bakrypt in the browser, from the routes of bakrypt_proxy. They are renewed
 * before they expire, once for all callers and all tabs, and kept in memory only.
 *
 *     import { BakryptSession } from "/auth/bakrypt.js";
 *     const session = new BakryptSession({ base: "/auth" });
 *     await session.exchange();
 *     const reply = await session.fetch("https://testnet.bakrypt.io/v1/assets/");
 *
 * Tabs talk over a BroadcastChannel. Each message has the version `v` (2), the `id` of a session
 * ("exchange", or a new number for each sign-in), the generation `gen` of its token (the time when
 * it was obtained, and always more than the generation before it), and the members of one row:
 *
 * | members                 | sent by a tab that                 | a tab that hears it           |
 * |-------------------------|------------------------------------|-------------------------------|
 * | ask: true               | needs a later token than `gen`     | answers if its token of `id`  |
 * |                         |                                    | is later                      |
 * | access, refresh, due,   | got a token, or was asked for it   | takes it if its token of `id` |
 * | endsAt                  |                                    | is earlier                    |
 * | pause: ms, and those of | could not renew the token `gen`    | waits as long with the next   |
 * | the error               |                                    | try, if its token is not later|
 * | over: why               | signed out (`gen` is Infinity), or | forgets its token of `id`, if |
 * |                         | was refused a renewal for good     | that is not later             |
 *
 * Without an `id` a message is about any session: a tab that has had none yet asks for one, or
 * signs out.
 *
 * A tab renews inside a Web Lock, and asks the others first: they may have renewed the token while
 * this tab was frozen or waited for the lock. After an end a tab takes no token of other tabs until
 * a sign-in or an exchange has begun a session there.
 */

/**
 * @typedef {object} Fresh a token as the server gives it
 * @property {string} access
 * @property {string} [refresh]
 * @property {number} ends in ms of performance.now(); Infinity if the server does not say
 * @property {number} endsAt in ms of Date.now()
 *
 * @typedef {object} Place of a token among others
 * @property {string | number} id
 * @property {number} gen
 * @property {number} due the token is renewed when so many ms are left, and callers wait for that
 *   in the last fifth of them; Infinity after bakrypt has rejected the token
 *
 * @typedef {Fresh & Place} Held
 *
 * @typedef {object} Options
 * @property {string} [base] where the routes are
 * @property {RequestCredentials} [credentials]
 * @property {HeadersInit | (() => HeadersInit)} [headers] more of them for the routes
 * @property {number} [timeout] ms until it gives up on a reply of the routes
 */

const EXCHANGE = "exchange";
const { max, min, random, ceil } = Math;
const ignore = () => {};
const now = () => performance.now(); // stops while the machine sleeps
const date = () => Date.now(); // can be set
const left = (/** @type {Fresh} */ token) => min(token.ends - now(), token.endsAt - date());

/** An error reply of the proxy, or no reply at all (`status` 0). */
export class BakryptError extends Error {
  /**
   * @param {number} status @param {string} error
   * @param {string} [description] @param {number} [retryAfter] seconds
   */
  constructor(status, error, description, retryAfter) {
    super(description || error);
    this.name = "BakryptError";
    this.status = status;
    this.error = error;
    this.description = description;
    this.retryAfter = retryAfter;
  }

  /** Whether the session is over; after anything else it can be tried again. */
  get isFinal() {
    return /^(access_denied|invalid_grant|login_required)$/.test(this.error);
  }
}

/**
 * Dispatches `renewed` for each new token, and `lost` when there is no way to get one any more.
 *
 * Its state is in variables of the constructor: minified, private members take a third more bytes.
 */
export class BakryptSession extends EventTarget {
  /** @param {Options} [options] */
  constructor({ base = "/auth", credentials, headers, timeout = 30_000 } = {}) {
    super();
    const { href = "http://localhost", origin = "" } = globalThis.location ?? {};
    const url = new URL(base, href).href.replace(/\/+$/, "");
    if (/[?#]/.test(url)) throw new TypeError(`base has a query: ${url}`);

    /** @type {any} the token that this tab has, a `Held` */ let held;
    /** @type {any} a BroadcastChannel */ let channel;
    /** @type {Promise<void> | undefined} the last sign-in or exchange */ let beginning;
    /** @type {Record<string, Held>} what other tabs have, by id */ let answers = {};
    let asking = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;
    /** @type {any} the message about a renewal that failed */ let failure;
    /** @type {any} the id of the last sign-in or exchange */ let wanted;
    /** @type {any} */ let ended;
    /** @type {boolean | undefined} */ let closed;
    /** @type {any} by now() */ let notBefore;
    let shortest = 250; // ms that a token is used to which the server gives no second
    /** @type {Record<string, Promise<Held>>} by id: no user waits for another's */
    const renewals = {};
    /** @type {Record<string, string | number>} the ids of all tokens so far */ const ids = {};

    const emit = (/** @type {string} */ type, /** @type {any} */ detail) =>
      closed || this.dispatchEvent(new CustomEvent(type, { detail }));

    /** @type {(status?: number, error?: string, ...more: any[]) => never} */
    const fail = (status = 0, error = "aborted", ...more) => {
      throw new BakryptError(status, error, ...more);
    };

    const refuse = () => fail(401, "login_required", "no session");

    /** @param {string} route @param {object} parameters @returns {Promise<Fresh>} */
    const post = async (route, parameters) => {
      const all = new Headers(/** @type {any} */ (headers)?.call?.() ?? headers);
      all.set("Content-Type", "application/json");
      const signal = AbortSignal.timeout(timeout);
      const ends = now();
      const endsAt = date();
      /** @type {any} */ let response;
      /** @type {any} */ let reply;
      try {
        response = await fetch(`${url}/${route}/`, {
          method: "POST",
          credentials,
          headers: all,
          body: JSON.stringify(parameters),
          signal,
        });
        reply = await response.json();
      } catch (/** @type {any} */ error) {
        if (error.name !== "SyntaxError") {
          fail(
            0,
            signal.aborted ? "timeout" : "network_error",
            // A browser does not tell the network from CORS, which only another origin can meet.
            `no reply${url.startsWith(origin) ? "" : `: is it up, and does its BAKRYPT_ALLOWED_ORIGINS list ${origin}?`}`,
          );
        }
      }
      const { access_token: access, error } = reply ?? {};
      if (response.ok && access?.trim?.()) {
        const given = parseFloat(reply.expires_in) * 1000;
        const life = given >= 1000 ? given : given >= 0 ? shortest : Infinity;
        return { access, refresh: reply.refresh_token, ends: ends + life, endsAt: endsAt + life };
      }
      const after = response.headers.get("Retry-After"); // seconds, or a date
      fail(
        response.status,
        // Whatever is between here and the server may answer with a page of its own.
        (!response.ok && error?.trim?.()) || "bad_reply",
        reply?.error_description,
        max(0, +after || ceil((Date.parse(after) - date()) / 1000)) || undefined,
      );
    };

    /**
     * Do work in one tab at a time. Without locks, and after a long wait for a tab that was frozen
     * with the lock, do it all the same.
     * @template T @param {() => Promise<T>} work @returns {Promise<T>}
     */
    const alone = async (work) => {
      let working;
      try {
        await navigator.locks.request(
          url,
          { signal: AbortSignal.timeout(timeout + 1000) },
          () => (working = work()).catch(ignore),
        );
      } catch {} // also if another tab has stolen the lock: the work goes on
      return working ?? work();
    };

    const say = (/** @type {object} */ message) => {
      message = { ...message, v: 2 };
      channel?.postMessage(message);
      hear(message); // what holds for the others holds here
    };

    const tell = (/** @type {Held} */ held) => say({ ...held, endsAt: date() + left(held) });

    const ask = async (/** @type {string | number} */ id, gen = 0, ms = 100) => {
      if (!asking++) answers = {}; // somebody who asked a moment ago still has to read them
      say({ ask: true, id, gen });
      await new Promise((resolve) => setTimeout(resolve, ms));
      asking--;
    };

    /**
     * Return the token if it is of this session, or any if there is no id.
     * @param {string | number} id @returns {any} a `Held`
     */
    const own = (id) => (!id || held?.id === id) && held;

    const hear = (/** @type {any} */ message) => {
      if (message?.v !== 2) return;
      const { id, gen, ask, pause, over } = message;
      const ours = own(id);
      if (over) answers = {};
      if (ask) {
        if (ours?.gen > gen) tell(ours);
      } else if (message.access?.trim) {
        message.ends = now() + message.endsAt - date();
        answers[id] = message;
        if (gen > ours?.gen) keep(message);
      } else if (gen >= ours?.gen) {
        if (pause) {
          failure = message;
          notBefore = now() + pause;
        } else if (over) {
          ours.over = ended = true;
          held = null;
          emit("lost", over);
        }
        schedule();
      }
    };

    try {
      channel = new BroadcastChannel(url);
      channel.onmessage = (/** @type {MessageEvent} */ { data }) => hear(data);
    } catch {} // there is none, or cookies are blocked: this tab goes on alone

    /** Return 0 if the token is good, 1 if it is time to renew it, 2 if callers wait for that. */
    const need = () => {
      if (left(held) <= held.due / 5) return 2;
      return left(held) > held.due || now() < notBefore ? 0 : 1;
    };

    // At least every 30 s: a timer does not notice that the machine slept.
    const schedule = () => {
      clearTimeout(timer);
      if (held && !closed)
        timer = setTimeout(
          () => renew().then(schedule, schedule),
          // Infinity less Infinity is NaN, which a timer takes for 0.
          min(max(left(held) - held.due || 0, notBefore - now()), 30_000),
        );
    };

    const keep = (/** @type {Held} */ next) => {
      const isNew = next.access !== held?.access;
      held = next;
      ids[next.access] = next.id;
      failure = ended = notBefore = 0;
      shortest = left(next) < shortest ? min(shortest * 2, 30_000) : 250;
      schedule();
      if (isNew) emit("renewed", { expiresIn: left(next) / 1000 });
    };

    /**
     * Tell the others of a token that the server gave.
     * @param {string | number} id @param {Fresh} fresh @param {any} old
     */
    const publish = (id, fresh, old) => {
      const next = {
        ...fresh,
        id,
        gen: max(date(), old.gen + 1 || 0),
        // If it is the old token, the server has not renewed it yet.
        due: min(left(fresh), 9e15) / (old.access === fresh.access ? 2 : 10),
        refresh: fresh.refresh ?? old.refresh,
      };
      tell(next);
      return next;
    };

    /** @returns {Promise<Held>} */
    const renew = () => {
      const { id } = held;
      const current = () => own(id) || fail();
      return (renewals[id] ??= alone(async () => {
        if (current() && need()) await ask(id, held.gen);
        const old = current();
        const { gen } = old;
        if (!need()) return old;
        if (now() < notBefore) fail(failure.status, failure.error, failure.description);
        let fresh;
        try {
          fresh = await (id === EXCHANGE
            ? post(id, { rejected_token: old.due < Infinity ? undefined : old.access })
            : post("token", {
                grant_type: "refresh_token",
                refresh_token: old.refresh ?? refuse(),
              }));
        } catch (/** @type {any} */ error) {
          if (error.isFinal) {
            await ask(id, gen, 1000);
            if (current().gen > gen) return current();
            say({ over: error.message, id, gen });
          } else {
            say({
              ...error,
              id,
              gen,
              pause: max(
                min(error.retryAfter, 3600) * 1000 || 0,
                min(failure?.pause * 2 || 1000, 30_000) * (0.5 + random()),
              ),
            });
          }
          throw error;
        }
        // The others need it even if somebody else has signed in here meanwhile.
        if (!old.over) publish(id, fresh, old);
        return current();
      }).finally(() => delete renewals[id]));
    };

    /** @param {string} [rejected] @returns {Promise<Held>} */
    const living = async (rejected) => {
      if (!held) await beginning?.catch(ignore);
      if (!held && !ended) {
        await ask(0);
        await beginning?.catch(ignore); // it may have begun meanwhile
        const [found, another] = Object.values(answers);
        // Of two users' tokens neither: nobody can say whose this tab is.
        held || ended || another || !found || keep(found);
      }
      if (closed) fail();
      const old = held ?? refuse();
      if (old.access === rejected) old.due = Infinity;
      if (need() > 1) {
        try {
          return await renew();
        } catch (/** @type {any} */ error) {
          if (!own(old.id) || old.access === rejected || left(old) <= 0) throw error;
        }
      } else if (need()) renew().catch(ignore); // it is tried again
      return old;
    };

    /** @param {string | number} id @param {(check: () => void) => Promise<any>} get */
    const begin = async (id, get) => {
      const check = () => (closed || wanted !== id) && fail();
      wanted = id;
      check();
      return (beginning = get(check).then((found) => {
        check();
        // Not the token that it has: a renewal that failed is not tried sooner for that.
        if (found !== held) keep(found.gen ? found : publish(id, found, own(id)));
      }));
    };

    /** Get a user's token. @param {string} username @param {string} password */
    this.signIn = (username, password) =>
      begin(random(), () => post("token", { username, password }));

    /** Get the account's token, which the server shares among all its callers. */
    this.exchange = () =>
      begin(EXCHANGE, (check) =>
        alone(async () => {
          if (!own(EXCHANGE)) await ask(EXCHANGE);
          check();
          const found = own(EXCHANGE) || answers[EXCHANGE];
          return found && left(found) > 0 ? found : post(EXCHANGE, {});
        }),
      );

    /**
     * Return a living access token. It is renewed first if it is about to expire, or if it is the
     * one that bakrypt `rejected`.
     * @param {{rejected?: string}} [options] @returns {Promise<string>}
     */
    this.accessToken = async (/** @type {any} */ { rejected } = {}) => {
      const { id, access } = await living(rejected);
      // The caller would repeat one user's request as another.
      return (ids[rejected] ?? id) === id ? access : fail();
    };

    /**
     * `fetch` with the access token. After a 401 the token is renewed and the request is sent once
     * more, if its body can be.
     * @param {any} input @param {any} [init] @returns {Promise<Response>}
     */
    this.fetch = async (input, init) => {
      for (let /** @type {any} */ response, /** @type {Held | undefined} */ last; ; ) {
        const request = new Request(input.clone?.() ?? input, init);
        const { signal } = request;
        /** @type {Held} */ const next = await new Promise((resolve, reject) => {
          signal.throwIfAborted();
          signal.onabort = () => reject(signal.reason);
          living(last?.access).then(resolve, reject);
        });
        // Not with the same token again, nor with that of a user who has signed in meanwhile.
        if (last && (last.id !== next.id || last.access === next.access)) return response;
        request.headers.set("Authorization", `Bearer ${next.access}`);
        response = await fetch(request);
        if (response.status !== 401 || last) return response;
        // A stream, which has `tee`, or what Node iterates over is read by now.
        if (init?.body?.tee || init?.body?.[Symbol.asyncIterator]) return response;
        last = next;
      }
    };

    /** Forget the token, in all tabs. */
    this.signOut = () =>
      say({
        over: "signed out",
        id: held?.id ?? (ended || wanted), // after an end nobody's
        gen: (wanted = ended = Infinity),
      });

    /** Stop the timers and leave the other tabs. A closed session cannot be used any more. */
    this.close = async () => {
      closed = true;
      schedule();
      // A refresh under way ends the other tabs' token: they must hear of the new one.
      for (const id in renewals) await renewals[id].catch(ignore);
      channel = channel?.close();
    };
  }
}
