/** An error reply of the proxy, or none at all (`status` 0). */
export class BakryptError extends Error {
  constructor(status: number, error: string, description?: string, retryAfter?: number);
  status: number;
  error: string;
  description: string | undefined;
  /** Seconds after which to try again, if the server said so. */
  retryAfter: number | undefined;
  /** Whether the session is over; after anything else it can be tried again. */
  get isFinal(): boolean;
}

export interface BakryptSessionEventMap {
  /** There is a new token; `expiresIn` is its life in seconds. */
  renewed: CustomEvent<{ expiresIn: number }>;
  /** There is no way to get a token any more; the detail says why. */
  lost: CustomEvent<string>;
}

/** Access tokens from bakrypt_proxy: renewed ahead of their end, once for all callers and tabs, kept in memory alone. */
export class BakryptSession extends EventTarget {
  constructor(options?: { base?: string; credentials?: RequestCredentials });
  /** Get a user's token. */
  signIn(username: string, password: string): Promise<void>;
  /** Get the account's token, which the server shares among all its callers. */
  exchange(): Promise<void>;
  /** Return a living access token, renewed first if it is about to end. */
  accessToken(): Promise<string>;
  /** `fetch` with the access token; after a 401 it is renewed and the request sent once more, if its body can be. */
  fetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response>;
  /** Forget the token, in all tabs. */
  signOut(): void;
  addEventListener<K extends keyof BakryptSessionEventMap>(
    type: K,
    listener: (event: BakryptSessionEventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}
