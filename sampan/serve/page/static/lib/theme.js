// Light, dark, or as the system says.

import { byId } from "./dom.js";
import { read, write } from "./storage.js";
import { onLanguage, text } from "./strings.js";

const THEME = "sampan.theme";
const THEMES = ["auto", "light", "dark"];

/** Makes the button go through the themes. */
export function startTheme() {
  const button = byId("theme");
  const kept = read(THEME, "auto");
  let theme = THEMES.includes(kept) ? kept : "auto";
  const show = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const label = text("theme", { name: text(`theme-${theme}`) });
    button.title = label;
    button.setAttribute("aria-label", label);
    button.querySelector("use").setAttribute("href", `#icon-theme-${theme}`);
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    write(THEME, theme);
    show();
  });
  onLanguage(show);
  show();
}
