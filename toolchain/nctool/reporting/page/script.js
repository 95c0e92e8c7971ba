// Draw each figure from its data, and again when another layer or sample is chosen. Nothing is fetched.
const data = JSON.parse(document.getElementById("data").textContent);
const chosen = {};
const tip = document.body.appendChild(Object.assign(document.createElement("div"), { className: "tip", hidden: true }));

function unpacked(column) {
  return Array.isArray(column) ? column : column.at.map(place => column.of[place]);
}

function rowsOf({ columns, grid }) {
  if (grid) return grid.flatMap(cellsOf);
  const names = Object.keys(columns), values = names.map(name => unpacked(columns[name]));
  return names.length ? values[0].map((_, row) => Object.fromEntries(names.map((name, k) => [name, values[k][row]]))) : [];
}

// The cells of a line that are not empty, and the first one, so that no line is missing.
function cellsOf([layer, step, total, digits]) {
  const n = digits.length, first = k => Math.floor((k * total) / n);
  return [...digits].flatMap((digit, k) => {
    const shade = parseInt(digit, 36) / 35, last = first(k + 1) - 1;
    if (shade === 0 && k > 0) return [];
    const neurons = last > first(k) ? `${first(k)}..${last}` : `${last}`;
    return [{ layer, line: `${layer}, ${step}`, low: k / n, high: (k + 1) / n, shade, neurons, share: `${Math.round(100 * shade)} %` }];
  });
}

function showTip(_, event, item, value) {
  tip.hidden = !value || typeof value !== "object";
  if (tip.hidden) return;
  tip.textContent = Object.entries(value).map(([name, text]) => `${name}: ${text}`).join("\n");
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
}

const DRAWING = { mode: "vega", renderer: "svg", actions: false, defaultStyle: false, tooltip: showTip };

function specOf(name, rows, width) {
  const spec = structuredClone(data.charts[name]);
  for (const legend of spec.legends ?? []) legend.columns = Math.max(1, Math.floor(width / 190));
  spec.data.find(each => each.name === "rows").values = rows;
  return spec;
}

// Text in which names stand between backticks.
function write(place, text) {
  place.replaceChildren(...text.split("`").map((part, k) => (k % 2 ? Object.assign(document.createElement("code"), { textContent: part }) : part)));
}

async function draw(element) {
  const figure = data.figures[element.dataset.figure];
  const variant = figure.of[figure.by ? chosen[figure.by] : ""];
  const rows = variant ? rowsOf(variant) : [];
  const text = variant ? variant.text : `This network has no ${figure.by} of this name.`;
  write(element.querySelector(".text"), text);
  const chart = element.querySelector(".chart"), image = element.querySelector(".sample");
  if (image) Object.assign(image, { hidden: !variant?.image, src: variant?.image || "data:,", alt: `Sample ${chosen.sample}` });
  chart.hidden = rows.length === 0;
  const details = element.querySelector("details");
  details.hidden = rows.length === 0;
  details.ontoggle = () => fillTable(details, figure, rows);
  fillTable(details, figure, rows);
  element.drawn?.finalize();
  element.drawn = rows.length ? await vegaEmbed(chart, specOf(figure.chart, rows, chart.clientWidth), DRAWING) : null;
  chart.querySelector("svg")?.setAttribute("aria-hidden", "true");
  chart.setAttribute("role", "img"); // Vega has put its own words there
  chart.setAttribute("aria-label", `${figure.title}. ${text.replaceAll("`", "")}`);
}

function fillTable(details, figure, rows) {
  const place = details.querySelector(".scrolls");
  place.replaceChildren();
  if (!details.open) return;
  const fields = Object.entries(figure.table), table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const [, title] of fields) head.appendChild(Object.assign(document.createElement("th"), { scope: "col", textContent: title }));
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const [name] of fields) line.insertCell().textContent = row[name] ?? "";
  }
  place.append(table);
}

for (const select of document.querySelectorAll("select[data-by]")) {
  chosen[select.dataset.by] = select.value;
  select.addEventListener("change", () => {
    chosen[select.dataset.by] = select.value;
    for (const element of document.querySelectorAll("[data-figure]")) {
      if (data.figures[element.dataset.figure].by === select.dataset.by) draw(element);
    }
  });
}
const drawAll = () => Promise.all([...document.querySelectorAll("[data-figure]")].map(draw));
let soon, width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  clearTimeout(soon);
  soon = setTimeout(drawAll, 150);
});
await drawAll();
document.documentElement.dataset.drawn = "yes";
