/** How long it will take. One run gives no sign of itself, so the estimate is how long the same took before. */
export class Progress {
  private timer: ReturnType<typeof setInterval> | undefined;

  constructor(
    private readonly bar: HTMLElement,
    private readonly status: HTMLElement,
  ) {}

  /** `expected` in milliseconds; null where nothing is known yet. */
  start(what: string, expected: number | null): void {
    this.end();
    const started = performance.now();
    const filled = this.bar.firstElementChild as HTMLElement;
    this.bar.hidden = false;
    this.bar.classList.toggle("unknown", expected === null);
    const tell = (): void => {
      const elapsed = performance.now() - started;
      const share = expected === null ? null : Math.min(elapsed / expected, 0.98);
      if (share === null) {
        this.bar.removeAttribute("aria-valuenow");
        filled.style.removeProperty("width");
      } else {
        this.bar.setAttribute("aria-valuenow", String(Math.round(100 * share)));
        filled.style.width = `${100 * share}%`;
      }
      const about = expected === null ? "" : ` of about ${seconds(expected)}`;
      this.status.textContent = `${what} ${seconds(elapsed)}${about}`;
    };
    tell();
    this.timer = setInterval(tell, 100);
  }

  end(said = ""): void {
    clearInterval(this.timer);
    this.bar.hidden = true;
    this.status.textContent = said;
  }
}

export function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(milliseconds < 9950 ? 1 : 0)} s`;
}
