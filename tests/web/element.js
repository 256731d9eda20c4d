// What test_element.py calls in its page.

import * as rdeic from "/modules/rdeic-web/src/index.js";

const found = { events: [], violations: [] };
document.addEventListener("securitypolicyviolation", (event) => found.violations.push(event.violatedDirective));

const base64 = (data) => btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

globalThis.page = {
  found,
  rdeic,

  /** Adds an element with these attributes before the last paragraph; its events are noted under its id. */
  add(attributes) {
    const element = document.createElement("rdc-img");
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    for (const kind of ["preview", "load", "error"]) {
      element.addEventListener(kind, (event) => {
        found.events.push([element.id, kind, event.error?.code ?? event.message ?? null]);
        if (kind === "preview") found.preview = page.pixels(element.id);
      });
    }
    document.querySelector("#after").before(element);
  },

  /** Returns what an element shows: RGBA of its canvas. */
  pixels(id) {
    const canvas = document.getElementById(id).shadowRoot.querySelector("canvas");
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    return { width, height, data: base64(data) };
  },

  /** Returns a PNG file of an image and its metadata. */
  async png(width, height, data, icc, exif) {
    const image = new ImageData(new Uint8ClampedArray(bytesOf(data)), width, height);
    const metadata = { icc: icc && bytesOf(icc), exif: exif && bytesOf(exif) };
    return base64(new Uint8Array(await (await rdeic.pngOf({ image, metadata })).arrayBuffer()));
  },
};
