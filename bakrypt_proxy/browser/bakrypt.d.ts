/** An error reply of the proxy, or no reply at all (`status` 0). */
export class BakryptError extends Error {
  constructor(status: number, error: string, description?: string, retryAfter?: number);
  status: number;
  /** The `error` of the proxy's reply, or one of the module's own words. */
  error: string;
  description: string | undefined;
  /** Seconds after which to try again, if the server said so. */
  retryAfter: number | undefined;
  /** Whether the session is over; after anything else it can be tried again. */
  get isFinal(): boolean;
}

export interface BakryptSessionOptions {
  /** Where the proxy's routes are: a path or an address, without a query. Default: `/auth`. */
  base?: string;
  /** As `fetch` takes it, for the proxy. `include` sends cookies to another origin. */
  credentials?: RequestCredentials;
  /**
   * More headers for the proxy, such as the token of a CSRF protection. A function is called for
   * each request.
   */
  headers?: HeadersInit | (() => HeadersInit);
  /** Milliseconds until the module gives up on a reply of the proxy. Default: 30000. */
  timeout?: number;
}

export interface BakryptSessionEventMap {
  /** There is a new token. `expiresIn` is in seconds, `Infinity` if the server did not say. */
  renewed: CustomEvent<{ expiresIn: number }>;
  /** There is no way to get a token any more; the detail says why. */
  lost: CustomEvent<string>;
}

type Listener<K extends keyof BakryptSessionEventMap> = (event: BakryptSessionEventMap[K]) => void;

/**
 * Access tokens from bakrypt_proxy. They are renewed before they expire, once for all callers and
 * all tabs, and kept in memory only.
 */
export class BakryptSession extends EventTarget {
  constructor(options?: BakryptSessionOptions);
  /** Get a user's token. */
  readonly signIn: (username: string, password: string) => Promise<void>;
  /** Get the account's token, which the server shares among all its callers. */
  readonly exchange: () => Promise<void>;
  /**
   * Return a living access token. It is renewed first if it is about to expire, or if it is the one
   * that bakrypt `rejected`.
   */
  readonly accessToken: (options?: { rejected?: string }) => Promise<string>;
  /**
   * `fetch` with the access token. After a 401 the token is renewed and the request is sent once
   * more, if its body can be.
   */
  readonly fetch: (input: RequestInfo | URL, init?: RequestInit) => Promise<Response>;
  /** Forget the token, in all tabs that share it; without one, end the sessions of all tabs. */
  readonly signOut: () => void;
  /** Stop the timers and leave the other tabs. A closed session cannot be used any more. */
  readonly close: () => void;

  addEventListener<K extends keyof BakryptSessionEventMap>(
    type: K,
    listener: Listener<K>,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof BakryptSessionEventMap>(
    type: K,
    listener: Listener<K>,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}
