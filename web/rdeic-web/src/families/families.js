// Families: how the graphs of a bundle are chained, in the same stages as rdeic_rt/families and src/families.

import { diffo } from "./diffo.js";
import { rdeic } from "./rdeic.js";

/** Families by name. That a bundle's family is one of them, librdeic has checked. */
export const FAMILIES = new Map([rdeic, diffo].map((family) => [family.name, family]));
