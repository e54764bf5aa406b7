/** Says what was wrong, with which value, and what to do next. */
export class SightlineError extends Error {
  override name = "SightlineError";
}
