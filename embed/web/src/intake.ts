/** From whatever a person drops, pastes, chooses or films to a picture. */
import { SightlineError } from "./error.ts";
import { fromRgba, type Picture } from "./picture.ts";

/** Longer sides are shrunk: the network looks at a few hundred pixels anyway. */
const LONGEST = 4096;

/** The picture as a canvas, upright, in its own colours. */
export async function decode(file: Blob): Promise<HTMLCanvasElement> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    const name = file instanceof File ? file.name : "this";
    throw new SightlineError(`${name} is no picture that this browser can read: convert it to PNG or JPEG.`);
  }
  const canvas = drawn(bitmap, bitmap.width, bitmap.height);
  bitmap.close();
  return canvas;
}

/** What the camera sees now. */
export function frame(video: HTMLVideoElement): HTMLCanvasElement {
  return drawn(video, video.videoWidth, video.videoHeight);
}

export function pixelsOf(canvas: HTMLCanvasElement): Picture {
  return fromRgba(canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height));
}

function drawn(source: CanvasImageSource, width: number, height: number): HTMLCanvasElement {
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}
