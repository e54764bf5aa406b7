/** The picture, the map over it and the regions' boxes, on one canvas that is as sharp as the screen. */
import { mapPixels } from "./colours.ts";
import { resizedMap } from "./picture.ts";
import type { Answer } from "./protocol.ts";

export class Drawing {
  private picture: HTMLCanvasElement | null = null;
  private answer: Answer | null = null;
  private map: HTMLCanvasElement | null = null;
  opacity = 0.8;
  regions = true;

  constructor(private readonly canvas: HTMLCanvasElement) {
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(picture: HTMLCanvasElement): void {
    [this.picture, this.answer, this.map] = [picture, null, null];
    this.draw();
  }

  explain(answer: Answer): void {
    if (!this.picture) return;
    const { width, height } = this.picture;
    const pixels = mapPixels(resizedMap(answer.saliency, answer.width, answer.height, width, height));
    this.answer = answer;
    this.map = blank(width, height);
    this.map.getContext("2d")!.putImageData(new ImageData(pixels, width, height), 0, 0);
    this.draw();
  }

  draw(): void {
    if (!this.picture || !this.canvas.clientWidth) return;
    const { width, height } = this.picture;
    const fit = Math.min(this.canvas.clientWidth / width, this.canvas.clientHeight / height) * devicePixelRatio;
    this.canvas.width = Math.max(1, Math.round(width * fit));
    this.canvas.height = Math.max(1, Math.round(height * fit));
    this.paint(this.canvas);
    if (this.regions && this.answer) this.box(this.canvas.getContext("2d")!, this.answer, fit);
  }

  /** The picture with the map over it, at its own size and without boxes, as PNG. */
  overlay(): Promise<Blob | null> {
    const canvas = blank(this.picture?.width ?? 1, this.picture?.height ?? 1);
    this.paint(canvas);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  private paint(canvas: HTMLCanvasElement): void {
    const context = canvas.getContext("2d")!;
    context.imageSmoothingQuality = "high";
    if (this.picture) context.drawImage(this.picture, 0, 0, canvas.width, canvas.height);
    if (!this.map) return;
    context.globalAlpha = this.opacity;
    context.drawImage(this.map, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
  }

  private box(context: CanvasRenderingContext2D, { regions }: Answer, fit: number): void {
    const unit = devicePixelRatio;
    context.font = `600 ${12 * unit}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const [i, { box }] of regions.entries()) {
      const [x0, y0, x1, y1] = box.map((edge) => edge * fit) as [number, number, number, number];
      for (const [colour, width] of [["rgb(0 0 0 / 55%)", 4], ["#ffffff", 2]] as const) {
        context.strokeStyle = colour;
        context.lineWidth = width * unit;
        context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      }
      const number = String(i + 1);
      const high = 20 * unit;
      const wide = Math.max(high, context.measureText(number).width + 10 * unit);
      const [left, top] = [Math.min(x0, context.canvas.width - wide), Math.max(y0 - high, 0)];
      context.fillStyle = "#ffffff";
      context.fillRect(left, top, wide, high);
      context.fillStyle = "#1b1824";
      context.fillText(number, left + wide / 2, top + high / 2);
    }
  }
}

function blank(width: number, height: number): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}
