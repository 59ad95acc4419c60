"use strict";

// Curves: one slider smooths them all; the nearest point tells its value.

function place(value, axis, log) {
  let [low, high, begin, end] = axis;
  if (log) [low, high, value] = [Math.log(low), Math.log(high), Math.log(value)];
  const share = high > low ? (value - low) / (high - low) : 0.5;
  return begin + share * (end - begin);
}

function smoothed(points, weight) {
  let sum = 0, norm = 0;
  return points.map(([step, value]) => {
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return [step, sum / norm];
  });
}

function readChart(figure) {
  const chart = JSON.parse(figure.dataset.chart);
  const at = ([step, value]) => [place(step, chart.x), place(value, chart.y, chart.log)];
  const tip = figure.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.hidden = true;
  return { figure, at, tip, raw: chart.points, shown: chart.points };
}

function smooth(chart, weight) {
  chart.shown = smoothed(chart.raw, weight);
  const line = chart.shown.map((point) => chart.at(point).map((v) => v.toFixed(1)).join(","));
  chart.figure.querySelector(".line").setAttribute("points", line.join(" "));
}

function nearest(chart, event) {
  const svg = chart.figure.querySelector("svg");
  const box = svg.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
  const apart = chart.raw.map((point) => Math.abs(chart.at(point)[0] - x));
  return apart.indexOf(Math.min(...apart));
}

function point(chart, event) {
  const k = nearest(chart, event);
  const [x, y] = chart.at(chart.shown[k]);
  const mark = chart.figure.querySelector(".mark");
  mark.setAttribute("cx", x);
  mark.setAttribute("cy", y);
  mark.setAttribute("visibility", "visible");
  const [step, value] = chart.raw[k];
  const mean = chart.shown[k][1];
  chart.tip.textContent = `step ${step}: ${Number(value.toPrecision(5))}`;
  if (mean !== value) chart.tip.textContent += ` (smoothed ${Number(mean.toPrecision(5))})`;
  chart.tip.hidden = false;
}

function leave(chart) {
  chart.tip.hidden = true;
  chart.figure.querySelector(".mark").setAttribute("visibility", "hidden");
}

function startCharts() {
  const charts = [...document.querySelectorAll("[data-chart]")].map(readChart);
  for (const chart of charts) {
    chart.figure.addEventListener("pointermove", (event) => point(chart, event));
    chart.figure.addEventListener("pointerleave", () => leave(chart));
  }
  const slider = document.getElementById("smoothing");
  if (!slider) return;
  const apply = () => charts.forEach((chart) => smooth(chart, Number(slider.value) / 100));
  slider.addEventListener("input", apply);
  slider.parentElement.hidden = false;
  apply();
}

// Pictures and films by checkpoint: a slider shows one step at a time.

function showStep(steps, chosen, label) {
  steps.forEach((step, k) => {
    step.hidden = k !== chosen;
    for (const film of step.querySelectorAll("video")) {
      if (k === chosen) film.play().catch(() => {});
      else film.pause();
    }
  });
  label.textContent = steps[chosen].dataset.step;
}

function startSteps(gallery) {
  const steps = [...gallery.querySelectorAll("[data-step]")];
  const control = gallery.querySelector(".control");
  const slider = control.querySelector("input");
  const apply = () => showStep(steps, Number(slider.value), control.querySelector("output"));
  slider.addEventListener("input", apply);
  control.hidden = steps.length < 2;
  apply();
}

// Light or dark, until the page is closed.

function startTheme() {
  const button = document.getElementById("theme");
  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const name = () => { button.textContent = dark() ? "light" : "dark"; };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    name();
  });
  button.hidden = false;
  name();
}

startTheme();
startCharts();
document.querySelectorAll(".by-step").forEach(startSteps);
