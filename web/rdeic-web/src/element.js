// <rdc-img src alt bundle width height loading>: an .rdc file in a page, as <img> shows other files.
//
//     file (a few kB) ── size from its header ── [near the viewport] ── [reduced data: a button] ── preview ── image
//                                                                                                       └── error

import { RdcDecoder } from "./decoder.js";
import { withDecoder } from "./lending.js";
import { pngOf } from "./png.js";
import { prefersReducedData } from "./reduced-data.js";

// How far from the viewport an image with loading="lazy" begins to load.
const NEAR = "400px";

const STYLE = `
:host { display: inline-block; position: relative; max-width: 100%; vertical-align: bottom; }
:host([hidden]), [hidden] { display: none !important; }
canvas { display: block; width: 100%; height: auto; }
canvas.empty { background: rgb(128 128 128 / 20%); }
button { position: absolute; inset: 0; margin: auto; width: fit-content; height: fit-content; max-width: 100%; font: inherit; padding: .5em 1em; cursor: pointer; }
p { margin: 0; padding: .5em; border: 1px dashed; }`;

/** Not there where modules are imported without a page, as when pages are rendered on a server. */
const Base = globalThis.HTMLElement ?? class {};

/**
 * Shows an .rdc file: its preview first, then the image.
 *
 * Events, none of which bubbles: `preview` and `load` when they are shown, `error` (an `ErrorEvent` whose `error` is
 * what was thrown). Parts for style sheets: `image`, `button`, `error`.
 */
export class RdcImg extends Base {
  static observedAttributes = ["src", "alt", "bundle", "width", "height", "loading"];

  /**
   * For all elements: options of `RdcDecoder.load`, and `bundle`, the address of the bundle of those without such an
   * attribute. `buttonText` is written on the button that stands in for an image where the user asks for less data.
   */
  static options = { buttonText: "Load image" };

  #canvas;
  #button;
  #error;
  #sheet;
  #size = null;
  #complete = false;
  #running = null;
  #scheduled = false;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    this.#canvas = part(root, "canvas", "image", { width: 0, height: 0, role: "img" });
    this.#button = part(root, "button", "button", { type: "button", hidden: true });
    this.#error = part(root, "p", "error", { hidden: true });
    const common = new CSSStyleSheet();
    common.replaceSync(STYLE);
    this.#sheet = new CSSStyleSheet();
    root.adoptedStyleSheets = [common, this.#sheet];
  }

  connectedCallback() {
    this.#start();
  }

  disconnectedCallback() {
    this.#running?.abort();
    this.#running = null;
  }

  attributeChangedCallback(name, before, after) {
    if (before === after) return;
    if (name === "alt") this.#describe();
    else if (name === "width" || name === "height") this.#layOut();
    else if (name !== "loading" || after !== "lazy") this.#start();
  }

  /** Whether there is nothing left to do: the image is shown, or there was an error, or there is no `src`. */
  get complete() {
    return this.#complete;
  }

  /** Width of the file's image in pixels; 0 before its header was read. */
  get naturalWidth() {
    return this.#size?.width ?? 0;
  }

  /** Height of the file's image in pixels; 0 before its header was read. */
  get naturalHeight() {
    return this.#size?.height ?? 0;
  }

  /** Begins anew, once for all attributes that are set together. */
  #start() {
    this.#running?.abort();
    this.#running = null;
    this.#complete = false;
    if (!this.isConnected || this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      if (this.isConnected) this.#show();
    });
  }

  async #show() {
    const { signal } = (this.#running = new AbortController());
    this.#reset();
    const src = this.getAttribute("src");
    if (!src) {
      this.#complete = true;
      return;
    }
    this.#busy(true);
    try {
      const bytes = await fetchFile(new URL(src, document.baseURI), signal);
      const info = await RdcDecoder.info(bytes);
      signal.throwIfAborted();
      this.#size = { width: info.width, height: info.height };
      this.#layOut();
      if (this.getAttribute("loading") === "lazy") await near(this, signal);
      if (prefersReducedData()) await this.#consent(signal);
      await this.#decode(bytes, signal);
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
    }
  }

  async #decode(bytes, signal) {
    const { bundle, buttonText, ...options } = RdcImg.options;
    const bundleUrl = this.getAttribute("bundle") ?? bundle;
    if (!bundleUrl) throw new Error("<rdc-img> has no attribute bundle, and RdcImg.options none either");
    await withDecoder(bundleUrl, options, async (decoder) => {
      signal.throwIfAborted();
      await this.#draw(await decoder.decodeWithDetails(bytes, { signal, preview: true }), signal);
      this.dispatchEvent(new Event("preview"));
      await this.#draw(await decoder.decodeWithDetails(bytes, { signal }), signal);
      this.#busy(false);
      this.#complete = true;
      this.dispatchEvent(new Event("load"));
    });
  }

  /** Resolves once the button was pressed. */
  #consent(signal) {
    this.#button.textContent = RdcImg.options.buttonText;
    this.#button.hidden = false;
    this.#busy(false);
    return new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      this.#button.addEventListener("click", resolve, { once: true, signal });
    }).finally(() => {
      if (signal.aborted) return;
      this.#button.hidden = true;
      this.#busy(true);
    });
  }

  /** Draws a decoded image; the browser converts one with a colour profile. */
  async #draw(decoded, signal) {
    const bitmap = decoded.metadata.icc ? await createImageBitmap(await pngOf(decoded)).catch(() => null) : null;
    signal.throwIfAborted();
    this.#canvas.classList.remove("empty");
    const context = this.#canvas.getContext("2d");
    if (bitmap) context.drawImage(bitmap, 0, 0);
    else context.putImageData(decoded.image, 0, 0);
    bitmap?.close();
  }

  #fail(error) {
    this.#complete = true;
    this.#busy(false);
    this.#canvas.hidden = this.#button.hidden = true;
    this.#error.textContent = [this.getAttribute("alt"), `(${error.message})`].filter(Boolean).join(" ");
    this.#error.hidden = false;
    this.dispatchEvent(new ErrorEvent("error", { error, message: error.message }));
  }

  #reset() {
    this.#size = null;
    this.#canvas.hidden = false;
    this.#canvas.width = this.#canvas.height = 0;
    this.#button.hidden = this.#error.hidden = true;
    this.#busy(false);
    this.#describe();
    this.#layOut();
  }

  /** Gives the element its size: that of its attributes, else of the file. The image then changes nothing. */
  #layOut() {
    const [width, height] = ["width", "height"].map((name) => pixels(this.getAttribute(name)));
    const ratio = this.#size ?? (width && height ? { width, height } : null);
    const rules = [];
    if (width) rules.push(`:host { width: ${width}px; }`);
    else if (height && ratio) rules.push(`:host { width: ${(height * ratio.width) / ratio.height}px; }`);
    else if (ratio) rules.push(`:host { width: ${ratio.width}px; }`);
    if (ratio) rules.push(`canvas { aspect-ratio: ${ratio.width} / ${ratio.height}; }`);
    this.#sheet.replaceSync(rules.join("\n"));
    if (!this.#size || this.#canvas.width) return;
    Object.assign(this.#canvas, this.#size);
    this.#canvas.classList.add("empty");
  }

  /** An image with an empty alt is decoration, which assistive technology skips, as it does for <img>. */
  #describe() {
    const alt = this.getAttribute("alt");
    if (alt === "") this.#canvas.setAttribute("aria-hidden", "true");
    else this.#canvas.removeAttribute("aria-hidden");
    if (alt) this.#canvas.setAttribute("aria-label", alt);
    else this.#canvas.removeAttribute("aria-label");
  }

  #busy(is) {
    this.#canvas.setAttribute("aria-busy", String(is));
  }
}

function part(root, tag, name, properties) {
  const made = Object.assign(document.createElement(tag), { part: name, ...properties });
  root.append(made);
  return made;
}

async function fetchFile(url, signal) {
  const answer = await fetch(url, { signal });
  if (!answer.ok) throw new Error(`${url.pathname}: ${answer.status} ${answer.statusText}`.trim());
  return new Uint8Array(await answer.arrayBuffer());
}

/** Resolves once an element is in the viewport, or close to it. */
function near(element, signal) {
  return new Promise((resolve, reject) => {
    const observer = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        observer.disconnect();
        resolve();
      },
      { rootMargin: NEAR },
    );
    observer.observe(element);
    signal.addEventListener("abort", () => {
      observer.disconnect();
      reject(signal.reason);
    }, { once: true });
  });
}

/** Returns the number of CSS pixels that an attribute gives, as that of <img>; null if it gives none. */
function pixels(text) {
  const number = Number.parseInt(text ?? "", 10);
  return number > 0 ? number : null;
}

if (globalThis.customElements && !customElements.get("rdc-img")) customElements.define("rdc-img", RdcImg);
