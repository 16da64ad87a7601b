// Requests to the server that the page came from: with the key, where it wants one, and errors as objects.

import { read, remove, write } from "../lib/storage.js";

const KEY = "sampan.key";

let key = read(KEY, null, "sessionStorage");
let askForKey = async () => null;
let asking = null;

/** What the server, or the way to it, said no with. `status` 0: it was not reached. */
export class ApiError extends Error {
  constructor(message, { status = 0, parameter = null, retryAfter = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.parameter = parameter;
    this.retryAfter = retryAfter; // seconds
  }
}

/** Sets what asks a person for the key: (wasRefused) -> Promise of the key, or of null. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

export function forgetKey() {
  key = null;
  remove(KEY, "sessionStorage");
}

export function hasKey() {
  return key !== null;
}

/**
 * A response whose status is good. `body` is sent as JSON. When the server wants a key, a person is asked
 * and the request sent again. Throws ApiError; an AbortError when `signal` says so.
 */
export async function request(path, { method = "GET", body, signal, quiet = false } = {}) {
  for (;;) {
    const sent = key;
    const response = await send(path, method, body, signal);
    if (response.ok) return response;
    if (response.status !== 401 || quiet) throw await errorOf(response);
    if (key !== sent) continue; // another request has asked meanwhile
    asking ??= askForKey(sent !== null).finally(() => (asking = null));
    const given = await asking;
    if (given === null) throw await errorOf(response);
    key = given;
    write(KEY, key, "sessionStorage");
  }
}

async function send(path, method, body, signal) {
  const headers = {};
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    const text = body === undefined ? undefined : JSON.stringify(body);
    return await fetch(path, { method, headers, body: text, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(error.message);
  }
}

async function errorOf(response) {
  const seconds = Number(response.headers.get("Retry-After"));
  const details = { status: response.status, retryAfter: seconds > 0 ? seconds : null };
  try {
    return apiError((await response.json()).error, details);
  } catch {
    return new ApiError(`${response.status} ${response.statusText}`, details);
  }
}

/** From the API's own {message, param}, as in a response's body or in the middle of a stream. */
export function apiError(error, details) {
  return new ApiError(String(error.message), { ...details, parameter: error.param ?? null });
}
