// What this browser keeps for the page: for long, or for as long as the tab is open (`area` "sessionStorage").
// A browser may refuse; the page then works without.

/** A value kept as JSON, or `fallback` where there is none or it cannot be read. */
export function read(key, fallback, area = "localStorage") {
  try {
    const value = window[area].getItem(key);
    return value === null ? fallback : JSON.parse(value);
  } catch {
    return fallback;
  }
}

/** Keeps a value as JSON; false when the browser has no room or allows nothing. */
export function write(key, value, area = "localStorage") {
  try {
    window[area].setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

export function remove(key, area = "localStorage") {
  try {
    window[area].removeItem(key);
  } catch {
    // Nothing was kept either.
  }
}
