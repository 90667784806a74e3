"use strict";
// Live strips: what the device and the controller do. A signal that the device lacks has no strip.

const SIGNALS = {
  cpu_load: ["processor", (v) => `${Math.round(100 * v)} %`],
  gpu_load: ["GPU", (v) => `${Math.round(100 * v)} %`],
  power_w: ["power", (v) => `${v.toFixed(1)} W`],
  temperature_c: ["temperature", (v) => `${v.toFixed(0)} °C`],
  battery_level: ["battery", (v) => `${Math.round(100 * v)} %`],
  price: ["price", (v) => v.toPrecision(2)],
  overspend_ms: ["debt", (v) => `${v.toFixed(1)} ms`],
};
const KEPT = 120;

class Strips {
  constructor(root) {
    this.root = root;
    this.strips = new Map();
  }

  add(values) {
    for (const [signal, [title, format]] of Object.entries(SIGNALS)) {
      const value = values[signal];
      if (value === null || value === undefined) continue;
      if (!this.strips.has(signal)) this.strips.set(signal, this.make(title));
      const strip = this.strips.get(signal);
      strip.values.push(value);
      if (strip.values.length > KEPT) strip.values.shift();
      strip.shown.textContent = format(value);
      draw(strip);
    }
  }

  make(title) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const shown = document.createElement("span");
    const canvas = document.createElement("canvas");
    caption.append(title, shown);
    figure.append(caption, canvas);
    this.root.append(figure);
    return { values: [], shown, canvas };
  }
}

function draw({ values, canvas }) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.width = canvas.clientWidth * scale;
  const height = canvas.height = canvas.clientHeight * scale;
  const low = Math.min(...values), high = Math.max(...values);
  const span = high - low || Math.abs(high) || 1;
  const context = canvas.getContext("2d");
  context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  context.lineWidth = 1.5 * scale;
  context.beginPath();
  values.forEach((value, place) => {
    const x = place * width / (KEPT - 1);
    const y = height - scale - (value - low) / span * (height - 2 * scale);
    if (place) context.lineTo(x, y); else context.moveTo(x, y);
  });
  context.stroke();
}
