// Two drawings of figures: a line of the last minute, and a tank that a boat floats in.

import { svg } from "../lib/dom.js";

const WIDTH = 120;
const HEIGHT = 32;

/** A line over time, with the area below it. `set(values, most)`: oldest first, in fixed steps. */
export class Sparkline {
  #length;
  #area = svg("path", { class: "spark-area" });
  #line = svg("path", { "class": "spark-line", "vector-effect": "non-scaling-stroke" });

  /** `length`: how many values fill the width. */
  constructor(length) {
    this.#length = length;
    const box = { "viewBox": `0 0 ${WIDTH} ${HEIGHT}`, "preserveAspectRatio": "none", "aria-hidden": "true" };
    this.element = svg("svg", { class: "spark", ...box }, this.#area, this.#line);
  }

  set(values, most) {
    const step = WIDTH / (this.#length - 1);
    const first = WIDTH - step * (values.length - 1);
    const points = values.map((value, index) => {
      const height = Math.min(value / most, 1) * (HEIGHT - 3);
      return `${(first + index * step).toFixed(1)} ${(HEIGHT - 1.5 - height).toFixed(1)}`;
    });
    const line = points.length > 1 ? `M${points.join("L")}` : "";
    this.#line.setAttribute("d", line);
    this.#area.setAttribute("d", line && `${line}V${HEIGHT}H${first.toFixed(1)}Z`);
  }
}

const TANK = { width: 288, height: 104 };
// The boat needs some water, and the sky some room.
const LOWEST = 12;
const HIGHEST = 70;
const WAVE = 8;

/** Water that stands as high as memory is full, in two depths: in use, and kept for reuse above it. */
export class Tank {
  #held = svg("path", { fill: "url(#tank-water)", d: surface(0) });
  #kept = svg("path", { class: "water-kept", d: surface(16) });
  #boat = svg(
    "g",
    { class: "tank-boat" },
    svg("use", { href: "#boat", x: 114, y: -20, width: 56, height: 25.2 }),
  );

  constructor() {
    const box = { "viewBox": `0 0 ${TANK.width} ${TANK.height}`, "aria-hidden": "true" };
    const stops = [svg("stop", { offset: 0 }), svg("stop", { offset: 1 })];
    const gradient = svg("linearGradient", { id: "tank-water", x1: 0, y1: 0, x2: 0, y2: 1 }, ...stops);
    this.element = svg("svg", { class: "tank", ...box }, gradient, this.#boat, this.#kept, this.#held);
    this.set(0, 0);
  }

  /** Shares of the memory, 0 to 1. */
  set(held, kept) {
    const full = Math.min(held + kept, 1);
    const top = TANK.height - LOWEST - full * (HIGHEST - LOWEST);
    const below = held > 0 ? ((TANK.height - top) * held) / full : -WAVE;
    // Style properties, set by script, are allowed under the policy; style attributes are not.
    this.#held.style.transform = `translateY(${TANK.height - below}px)`;
    this.#kept.style.transform = `translateY(${top}px)`;
    this.#boat.style.transform = `translateY(${top}px)`;
  }
}

/** Waves of 32 units, wider than the tank so that they can move by one. */
function surface(shift) {
  const waves = Array.from({ length: 12 }, () => "q8 -3.5 16 0t16 0").join("");
  return `M${-64 + shift} 0${waves}V${TANK.height}H-64Z`;
}
