// Light or dark: as the system prefers, until a person says otherwise. Runs before the page is drawn.

const NAME = "slipstream-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function kept() {
  try {
    return localStorage.getItem(NAME);
  } catch {
    return null;
  }
}

function keep(theme) {
  try {
    localStorage.setItem(NAME, theme);
  } catch {
    // it holds for as long as the page does
  }
}

const current = () => document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light");

function apply(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}

/** Wire up the button. */
export function initTheme(button) {
  const show = () => button.setAttribute("aria-pressed", String(current() === "dark"));
  button.addEventListener("click", () => {
    apply(current() === "dark" ? "light" : "dark");
    keep(current());
    show();
  });
  system.addEventListener("change", show);
  show();
}

apply(kept());
