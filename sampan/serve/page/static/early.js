// Runs before the first paint, so that a chosen theme does not flash. theme.js has the rest.
try {
  const theme = JSON.parse(localStorage.getItem("sampan.theme"));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Nothing was chosen, or the browser keeps nothing.
}
