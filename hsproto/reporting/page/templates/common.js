"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const runs = new Map(data.runs.map((run) => [run.id, run]));
const query = (selector, within = document) => within.querySelector(selector);
const queryAll = (selector, within = document) => [...within.querySelectorAll(selector)];
document.documentElement.classList.add("scripted");

// plotly reads a few tags in texts; names from outside are not meant to be tags.
const literal = (text) =>
  String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// What is undefined is a dash.
function shown(value, digits) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const places = digits ?? 4;
  const small = digits === undefined && value !== 0 && Math.abs(value) < 1e-3;
  return (small ? value.toExponential(1) : value.toFixed(places)).replace(/^-/, "−");
}

// The integers that page_sphere.Packed has written, as a flat array.
function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.b64), (letter) => letter.charCodeAt(0));
  const kinds = { int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array };
  return new kinds[packed.type](bytes.buffer);
}

const property = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Colours of charts, as the style sheet has them at the moment.
function theme() {
  const names = ["ink", "muted", "line", "surface", "accent"];
  return Object.fromEntries(names.map((name) => [name, property(`--${name}`)]));
}

// Black lines, as of cross entropy, would not be seen on a dark page.
const visible = (color) => (color === "#000000" ? property("--ink") : color);

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const onTheme = (draw) =>
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}
