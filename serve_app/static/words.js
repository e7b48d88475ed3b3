// Figures as people read them.

export const percent = (share) => `${Math.round(100 * share)} %`;

/** A share that may be tiny: three figures below one per cent. */
export function probability(share) {
  if (share >= 0.0995) return `${(100 * share).toFixed(share > 0.9995 ? 0 : 1)} %`;
  return `${Number((100 * share).toPrecision(2))} %`;
}

/** Milliseconds. */
export function duration(ms) {
  if (ms < 995) return `${Math.round(ms)} ms`;
  if (ms < 120e3) return `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;
  const minutes = Math.round(ms / 60e3);
  if (minutes < 120) return `${minutes} min`;
  return minutes < 48 * 60 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / 1440)} days`;
}

export const rate = (perSecond) => (perSecond < 99.95 ? perSecond.toFixed(1) : String(Math.round(perSecond)));

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** Blanks made visible. */
export const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
