// Codes as colours, and the codes nearest to a code.

import { call, parseNpy } from "./api.js";

const NEIGHBOURS = 8;
const POWER_STEPS = 24;

const codebooks = new Map();

/** Return the codebook of a VQ bundle, kept by the bundle's hash. */
export async function codebookOf(card) {
  if (!codebooks.has(card.hash)) {
    const answer = await call(`models/${encodeURIComponent(card.id)}/codebook`);
    const { shape: [count, width], data } = parseNpy(await answer.arrayBuffer());
    codebooks.set(card.hash, { count, width, data, colours: coloursOf(data, width) });
  }
  return codebooks.get(card.hash);
}

/** Return the codes nearest to a code, the nearest first: [code, distance]. */
export function neighbours({ count, width, data }, code) {
  const found = [];
  for (let other = 0; other < count; other++) {
    if (other === code) continue;
    let squares = 0;
    for (let i = 0; i < width; i++) squares += (data[code * width + i] - data[other * width + i]) ** 2;
    if (found.length < NEIGHBOURS || squares < found[NEIGHBOURS - 1][1]) {
      found.push([other, squares]);
      found.sort((a, b) => a[1] - b[1]);
      found.length = Math.min(found.length, NEIGHBOURS);
    }
  }
  return found.map(([other, squares]) => [other, Math.sqrt(squares)]);
}

/** Return an RGB colour for each vector: its place along the three directions of greatest variance. */
export function coloursOf(vectors, width) {
  const count = vectors.length / width;
  const mean = new Float64Array(width);
  for (let i = 0; i < vectors.length; i++) mean[i % width] += vectors[i] / count;
  const covariance = Array.from({ length: width }, () => new Float64Array(width));
  for (let n = 0; n < count; n++) {
    for (let i = 0; i < width; i++) {
      const left = vectors[n * width + i] - mean[i];
      for (let j = 0; j < width; j++) covariance[i][j] += (left * (vectors[n * width + j] - mean[j])) / count;
    }
  }
  const colours = new Uint8ClampedArray(3 * count).fill(128);
  for (let axis = 0; axis < Math.min(3, width); axis++) {
    const [direction, variance] = principal(covariance);
    const scale = variance > 0 ? 58 / Math.sqrt(variance) : 0;
    for (let n = 0; n < count; n++) {
      let along = 0;
      for (let i = 0; i < width; i++) along += direction[i] * (vectors[n * width + i] - mean[i]);
      colours[3 * n + axis] = 128 + scale * along;
    }
    for (let i = 0; i < width; i++) {
      for (let j = 0; j < width; j++) covariance[i][j] -= variance * direction[i] * direction[j];
    }
  }
  return colours;
}

/** Return the first eigenvector of a symmetric matrix and its eigenvalue, by power iteration. */
function principal(matrix) {
  let vector = matrix.map((_, index) => 1 / (index + 1));
  let length = 0;
  for (let step = 0; step < POWER_STEPS; step++) {
    const next = matrix.map((row) => row.reduce((sum, value, index) => sum + value * vector[index], 0));
    length = Math.hypot(...next);
    if (length < 1e-12) return [vector, 0];
    vector = next.map((value) => value / length);
  }
  return [vector, length];
}

const patches = new Map();

/** Return the URL of a picture of one code by itself, as the decoder shows it. */
export function patchOf(card, code) {
  const key = `${card.hash}/${code}`;
  if (!patches.has(key)) {
    const url = call("decode", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "image/png" },
      body: JSON.stringify({ bundle: card.hash, tokens: [[[code]]] }),
    }).then(async (response) => URL.createObjectURL(await response.blob()));
    url.catch(() => patches.delete(key));
    patches.set(key, url);
  }
  return patches.get(key);
}
