/** Returns whether the user asks for less data: `prefers-reduced-data`, or Chromium's data saver. */
export function prefersReducedData() {
  return matchMedia("(prefers-reduced-data: reduce)").matches || navigator.connection?.saveData === true;
}
