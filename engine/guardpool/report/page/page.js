// What the page does: it unpacks the data, draws the shares, and lists the calls behind a number.
//
// Words of strangers only ever become text nodes, never markup. A link leads into this page, or to an https address.
"use strict";
(() => {
  const PAGE_ROWS = 25;
  const byId = (id) => document.getElementById(id);

  /** An element with attributes and children; text stays text. */
  const make = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "onclick") node.addEventListener("click", value);
      else if (value === true) node.setAttribute(key, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };

  const bar = (share, kind) => {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("class", `bar ${kind}`);
    svg.setAttribute("viewBox", "0 0 100 8");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    for (const [part, width] of [["rest", 100], ["part", 100 * share]]) {
      const rect = document.createElementNS(space, "rect");
      rect.setAttribute("class", part);
      rect.setAttribute("width", width.toFixed(2));
      rect.setAttribute("height", "8");
      svg.append(rect);
    }
    return svg;
  };

  const number = (count) => count.toLocaleString("en-US");
  const many = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;

  /** The number that a cell begins with: `1,204`, `12.3%`, `<0.1%`; what is no number comes last. */
  const valueOf = (text) => {
    const found = /-?[\d,]+(\.\d+)?/.exec(text);
    return found ? Number(found[0].replaceAll(",", "")) - (text[0] === "<" ? 0.05 : 0) : -Infinity;
  };

  async function unpack() {
    const packed = Uint8Array.from(atob(byId("data").textContent.trim()), (char) => char.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // ---- tables that sort and filter ----

  /**
   * A table of rows, a page at a time.
   * columns: [{title, number}]; rows: any values; cellsOf(row): the cells' nodes; keyOf(row, column): what is sorted by;
   * textOf(row): what the filter looks in; after(row): rows of the table that follow, or nothing.
   */
  class SortedTable {
    constructor({ label, columns, rows, cellsOf, keyOf, textOf, placeholder }) {
      Object.assign(this, { columns, rows, cellsOf, keyOf, textOf });
      this.order = null;
      this.page = 0;
      this.words = "";
      this.body = make("tbody");
      this.heads = columns.map((column, at) => {
        const button = make("button", { type: "button", onclick: () => this.sortBy(at) }, column.title);
        return make("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": "none" }, button);
      });
      const filter = make("input", { type: "search", placeholder, "aria-label": `Filter ${label}` });
      filter.addEventListener("input", () => { this.words = filter.value.toLowerCase(); this.page = 0; this.draw(); });
      this.count = make("span", { role: "status" });
      this.back = make("button", { type: "button", onclick: () => this.turn(-1) }, "Previous");
      this.forth = make("button", { type: "button", onclick: () => this.turn(1) }, "Next");
      const pager = make("div", { class: "pager" }, this.count, this.back, this.forth);
      const table = make("table", {}, make("thead", {}, make("tr", {}, ...this.heads)), this.body);
      const scroll = make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": label }, table);
      this.node = make("div", {}, make("div", { class: "tools" }, filter, pager), scroll);
      this.draw();
    }

    sortBy(at) {
      const first = this.columns[at].number ? "descending" : "ascending";
      const other = first === "descending" ? "ascending" : "descending";
      const direction = this.order?.at === at && this.order.direction === first ? other : first;
      this.order = { at, direction };
      this.heads.forEach((head, index) => head.setAttribute("aria-sort", index === at ? direction : "none"));
      this.page = 0;
      this.draw();
    }

    turn(pages) { this.page += pages; this.draw(); }

    matching() {
      const rows = this.words ? this.rows.filter((row) => this.textOf(row).toLowerCase().includes(this.words)) : [...this.rows];
      if (!this.order) return rows;
      const { at, direction } = this.order;
      const sign = direction === "ascending" ? 1 : -1;
      const keyed = rows.map((row) => [this.keyOf(row, at), row]);
      keyed.sort(([a], [b]) => sign * (typeof a === "number" ? a - b || 0 : a < b ? -1 : a > b ? 1 : 0));
      return keyed.map(([, row]) => row);
    }

    draw() {
      const rows = this.matching();
      const pages = Math.max(1, Math.ceil(rows.length / PAGE_ROWS));
      this.page = Math.min(Math.max(0, this.page), pages - 1);
      const from = this.page * PAGE_ROWS;
      const shown = rows.slice(from, from + PAGE_ROWS);
      this.body.replaceChildren(...shown.map((row) => make("tr", {}, ...this.cellsOf(row))));
      const range = rows.length ? `${number(from + 1)} to ${number(from + shown.length)} of ${number(rows.length)}` : "nothing matches";
      this.count.textContent = pages > 1 || !rows.length ? range : many(rows.length, "row");
      this.back.hidden = this.forth.hidden = pages === 1;
      this.back.disabled = this.page === 0;
      this.forth.disabled = this.page === pages - 1;
    }
  }

  // ---- shares ----

  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    return Object.fromEntries(["shown", "hidden", "soft", "line", "ink"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  };

  const short = (text) => (text.length > 34 ? `${text.slice(0, 33)}…` : text);

  let chart = null;
  function drawChart(canvas, share) {
    chart?.destroy();
    const { labels, parts, queries, upright } = share.chart;
    const colour = colours();
    const datasets = parts.map(([label, values, role]) => ({
      label, data: values, backgroundColor: colour[role], borderWidth: 0, maxBarThickness: 26, stack: "one",
    }));
    const numbers = { stacked: true, beginAtZero: true, ticks: { color: colour.soft, precision: 0 }, grid: { color: colour.line } };
    const names = {
      stacked: true, grid: { display: false },
      ticks: { color: colour.ink, autoSkip: upright, callback: (_, at) => short(labels[at]) },
    };
    chart = new Chart(canvas, {
      type: "bar",
      data: { labels, datasets },
      options: {
        indexAxis: upright ? "x" : "y",
        animation: false, responsive: true, maintainAspectRatio: false,
        interaction: { mode: "index", axis: upright ? "x" : "y", intersect: false },
        scales: upright ? { x: names, y: numbers } : { x: numbers, y: names },
        onClick: (_, hit) => { if (hit.length && queries[hit[0].index]) location.hash = `calls?${queries[hit[0].index]}`; },
        onHover: (event, hit) => { event.native.target.style.cursor = hit.length ? "pointer" : "default"; },
        plugins: {
          legend: { position: "top", align: "start", labels: { color: colour.ink, boxWidth: 12, boxHeight: 12 } },
          tooltip: {
            callbacks: {
              title: (items) => labels[items[0].dataIndex],
              label: (item) => {
                const all = parts.reduce((sum, [, values]) => sum + values[item.dataIndex], 0);
                const percent = all ? ` (${((100 * item.raw) / all).toFixed(1)}%)` : "";
                return ` ${item.dataset.label}: ${number(item.raw)} of ${number(all)}${percent}`;
              },
            },
          },
        },
      },
    });
  }

  const cellOf = ([text, share, query, kind], column, first) => {
    const inside = query ? make("a", { href: `#calls?${query}` }, text) : text;
    const attributes = { class: column.number ? "number" : null };
    const node = first ? make("th", { scope: "row", ...attributes }, inside) : make("td", attributes, inside);
    if (share !== null && share !== undefined) node.append(bar(share, kind));
    return node;
  };

  function drawShare(share) {
    const columns = share.columns.map((title) => ({ title: title.replace(/>$/, ""), number: title.endsWith(">") }));
    const height = share.chart.upright ? 260 : 60 + 32 * share.chart.labels.length;
    const told = share.chart.labels.map((label, at) => `${label}: ${share.chart.parts.map(([name, values]) => `${number(values[at])} ${name}`).join(", ")}`);
    const canvas = make("canvas", { role: "img", "aria-label": `${share.title}. ${told.join("; ")}. The table below has the same numbers.` });
    const box = make("div", { class: "chart" }, canvas);
    box.style.height = `${height}px`;
    const table = new SortedTable({
      label: `shares ${share.title.toLowerCase()}`,
      placeholder: `Filter by ${columns[0].title}`,
      columns,
      rows: share.rows,
      cellsOf: (row) => row.map((cell, at) => cellOf(cell, columns[at], at === 0)),
      keyOf: (row, at) => (columns[at].number ? valueOf(row[at][0]) : row[at][0].toLowerCase()),
      textOf: (row) => row[0][0],
    });
    const notes = share.notes.map((note) => make("p", { class: "note" }, note));
    byId("panel").replaceChildren(make("h3", {}, share.chart.title), box, ...notes, table.node);
    drawChart(canvas, share);
  }

  let current = 0;
  function drawTabs(shares) {
    const tabs = shares.map((share, at) => make("button", {
      type: "button", role: "tab", id: `tab-${share.id}`, "aria-controls": "panel", onclick: () => select(at),
    }, share.title.replace(/^By /, "")));
    const select = (at, focus = false) => {
      current = at;
      tabs.forEach((tab, index) => {
        tab.setAttribute("aria-selected", String(index === at));
        tab.tabIndex = index === at ? 0 : -1;
      });
      if (focus) tabs[at].focus();
      byId("panel").setAttribute("aria-labelledby", tabs[at].id);
      drawShare(shares[at]);
    };
    byId("tabs").addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const to = { Home: 0, End: tabs.length - 1 }[event.key] ?? (step && (current + step + tabs.length) % tabs.length);
      if (to !== undefined) { event.preventDefault(); select(to, true); }
    });
    byId("tabs").append(...tabs);
    if (shares.length) select(0);
  }

  // ---- calls ----

  const NAMES = {
    tool: "tool", touched: "touches", repository: "repository", server: "server", workflow: "workflow", day: "day", author: "author",
    association: "association", level: "level", end: "the agent", agrees: "agrees with the log", finding: "finding",
    hidden: "items were hidden", items: "has items", refused: "was refused", flag: "", call: "call",
  };

  class Calls {
    constructor(data, texts) {
      Object.assign(this, data, { texts });
      this.places = Uint32Array.from(this.columns.line.keys());
      this.findingSets = this.words.findings.map((word) => (word ? word.split(" ") : []));
    }

    word(name, place) { return this.words[name][this.columns[name][place]]; }

    id(place) {
      const path = this.word("path", place);
      return this.columns.line[place] ? `${path}#${this.columns.line[place]}` : path;
    }

    /** Whether a listed call is among those that `which` asks for. */
    test(which) {
      const tests = [];
      for (const [name, value] of which) {
        const column = this.columns[name];
        if (name === "finding") {
          const sets = this.findingSets.map((ids) => (value === "any" ? ids.length > 0 : ids.includes(value)));
          tests.push((place) => sets[this.columns.findings[place]]);
        } else if (name === "call") tests.push((place) => this.id(place) === value);
        else if (name === "flag") {
          const sets = this.words.flags.map((words) => words.split(" ").includes(value));
          tests.push((place) => sets[this.columns.flags[place]]);
        } else if (name === "items") tests.push((place) => this.columns.items[place] > 0);
        else if (name === "hidden") tests.push((place) => this.columns.hidden[place] > 0);
        else if (name === "refused") {
          const ends = this.words.end.map((end) => this.texts.refused.includes(end));
          tests.push((place) => ends[this.columns.end[place]]);
        } else if (this.examples[name]) {
          const listed = new Set(this.examples[name][value] ?? []);
          tests.push((place) => listed.has(place));
        } else if (column) {
          const wanted = this.words[name].indexOf(value === "(not known)" ? "" : value);
          tests.push((place) => column[place] === wanted);
        }
      }
      return (place) => tests.every((test) => test(place));
    }

    /** Groups of calls that are counted and not listed, and are among those that `which` asks for. */
    counted(which) {
      return this.groups.filter((group) => [...which].every(([name, value]) => {
        if (name === "hidden" || name === "items") return group[name] > 0;
        if (name === "flag") return group.flags.split(" ").includes(value);
        if (name === "refused") return this.texts.refused.includes(group.end);
        if (name === "finding") return value === "any" ? group.findings !== "" : group.findings.split(" ").includes(value);
        return name in group && group[name] === (value === "(not known)" ? "" : value);
      }));
    }
  }

  const listOf = (items) => make("ul", {}, ...items.map((item) => make("li", {}, item)));
  const tags = (text) => (text ? make("code", {}, text) : "no tags");

  const failedRules = (failed) => listOf(failed.map(([rule, missing, extra, detail]) => {
    const told = make("span", {}, make("strong", {}, rule));
    if (missing) told.append(": missing ", tags(missing));
    if (extra) told.append(": not cleared for ", tags(extra));
    if (detail) told.append(`: ${detail}`);
    return told;
  }));

  function filteredItem(item) {
    const isLink = item.url?.startsWith("https://");
    const name = isLink ? make("a", { href: item.url, rel: "noopener noreferrer", target: "_blank" }, item.what) : item.what;
    const told = make("span", {}, name);
    if (item.author) told.append(` by ${item.author}${item.association ? ` (${item.association})` : ""}`);
    told.append(make("br"), "has ", tags(item.has));
    for (const [rule, missing, extra] of item.failed ?? []) told.append(`, ${rule}: `, tags(missing || extra));
    if (item.pass) told.append(`. Would pass with ${item.pass}.`);
    return told;
  }

  function detailsOf(calls, place) {
    const list = make("dl");
    const add = (title, ...content) => list.append(make("dt", {}, title), make("dd", {}, ...content));
    const findings = calls.findingSets[calls.columns.findings[place]];
    if (findings.length) {
      add("Findings", listOf(findings.map((id) => make("span", {}, make("strong", {}, id), `: ${calls.texts.kinds[id]?.[1] ?? ""}`))));
    }
    const detail = calls.details[place];
    if (detail) {
      if (detail.what || detail.has) add("Touches", `${detail.what ?? ""} `, tags(detail.has));
      add("Agent", tags(detail.agent));
      if (detail.failed) add("The call failed", failedRules(detail.failed));
      if (detail.error) add("Because", detail.error);
      if (detail.strict) add("Strict rules", detail.strict);
      if (detail.filtered) {
        const more = detail.more ? [make("span", {}, `and ${many(detail.more, "more item")}`)] : [];
        add("Hidden items", listOf([...detail.filtered.map(filteredItem), ...more]));
      }
      if (detail.pass) add("Would pass with", detail.pass);
      if (detail.lost) add("Lost on the way", detail.lost.join(", "));
      if (detail.asked) add("No answer to", detail.asked.join(", "));
      if (detail.args) add("Arguments", make("code", {}, detail.args));
    }
    add("Session", make("span", { class: "call" }, calls.word("session", place)));
    for (const name of ["run", "workflow", "repository", "operation", "mode"]) {
      if (calls.word(name, place)) add(name[0].toUpperCase() + name.slice(1), calls.word(name, place));
    }
    if (!detail) add("More", make("code", {}, `guardpool explain DECISIONS --call '${calls.id(place)}'`));
    return make("tr", { class: "details" }, make("td", { colspan: "7" }, list));
  }

  const CALL_COLUMNS = [
    { title: "call" }, { title: "tool" }, { title: "touches" }, { title: "the agent" }, { title: "items shown", number: true },
    { title: "findings" }, { title: "when (UTC)" },
  ];

  function listCalls(calls, places) {
    const when = (place) => `${calls.word("day", place)} ${calls.word("time", place)}`.trim();
    const shown = (place) => calls.columns.items[place] - calls.columns.hidden[place];
    const values = [
      (place) => calls.id(place), (place) => calls.word("tool", place), (place) => calls.word("touched", place),
      (place) => calls.texts.ends[calls.word("end", place)] ?? calls.word("end", place),
      shown, (place) => calls.word("findings", place), when,
    ];
    const open = (place) => (event) => {
      const button = event.currentTarget, row = button.closest("tr");
      const isOpen = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!isOpen));
      if (isOpen) row.nextSibling.remove();
      else row.after(detailsOf(calls, place));
    };
    const badge = (id) => make("span", { class: `badge ${(calls.texts.kinds[id]?.[0] ?? "").split(" ")[0]}` }, id);
    return new SortedTable({
      label: "calls",
      placeholder: "Filter by words",
      columns: CALL_COLUMNS,
      rows: places,
      cellsOf: (place) => [
        make("th", { scope: "row" }, make("button", { type: "button", class: "call", "aria-expanded": "false", onclick: open(place) }, calls.id(place))),
        make("td", {}, calls.word("tool", place)),
        make("td", {}, calls.word("touched", place)),
        make("td", {}, values[3](place)),
        make("td", { class: "number" }, calls.columns.items[place] ? `${number(shown(place))} of ${number(calls.columns.items[place])}` : ""),
        make("td", {}, ...calls.findingSets[calls.columns.findings[place]].flatMap((id) => [badge(id), " "])),
        make("td", {}, when(place)),
      ],
      keyOf: (place, at) => values[at](place),
      textOf: (place) => values.map((value) => value(place)).join("\n"),
    });
  }

  function listGroups(calls, groups) {
    const names = ["tool", "touched", "workflow", "day", "end", "calls", "items", "hidden"];
    const columns = names.map((name, at) => ({ title: NAMES[name] ?? name, number: at > 4 }));
    for (const [at, title] of [[6, "items"], [7, "hidden"]]) columns[at].title = title;
    const merged = new Map(); // groups that differ only in what is not shown
    for (const group of groups) {
      const key = names.slice(0, 5).map((name) => group[name]).join("\n");
      const same = merged.get(key);
      if (same) for (const name of ["calls", "items", "hidden"]) same[name] += group[name];
      else merged.set(key, { ...group });
    }
    const rows = [...merged.values()].sort((a, b) => b.calls - a.calls);
    const value = (group, at) => (names[at] === "end" ? calls.texts.ends[group.end] ?? group.end : group[names[at]]);
    return new SortedTable({
      label: "calls that are counted and not listed", placeholder: "Filter by words", columns, rows,
      cellsOf: (group) => names.map((_, at) => make("td", { class: at > 4 ? "number" : null }, at > 4 ? number(value(group, at)) : value(group, at))),
      keyOf: value,
      textOf: (group) => names.slice(0, 5).map((_, at) => value(group, at)).join("\n"),
    });
  }

  function drawWhich(calls, which) {
    const chips = [...which].filter(([name]) => name in NAMES).map(([name, value]) => {
      const rest = new URLSearchParams(which);
      rest.delete(name);
      const told = name === "end" ? calls.texts.ends[value] ?? value : value;
      const words = name === "flag" ? calls.texts.flags[value] ?? value
        : ["hidden", "items", "refused"].includes(name) ? NAMES[name] : `${NAMES[name]}: ${told}`;
      return make("button", { type: "button", class: "chip", "aria-label": `Take away: ${words}`, onclick: () => { location.hash = `calls?${rest}`; } }, `${words} ✕`);
    });
    byId("which").replaceChildren(make("div", { class: "chips" }, ...chips));
  }

  function drawCalls(calls, which) {
    const places = Array.from(calls.places).filter(calls.test(which));
    const groups = calls.counted(which);
    const counted = groups.reduce((sum, group) => sum + group.calls, 0);
    const first = [...which].find(([name]) => calls.examples[name]);
    drawWhich(calls, which);
    byId("matching").textContent = first
      ? `The first ${many(places.length, "call")} with items of this ${NAMES[first[0]]}.`
      : counted
        ? `${many(places.length + counted, "call")} match. ${number(places.length)} are listed; ${number(counted)} are counted in groups below.`
        : `${many(places.length, "call")} match.`;
    byId("listed").replaceChildren(listCalls(calls, places).node);
    byId("counted").replaceChildren(...(counted ? [make("h3", {}, "Counted, not listed"), listGroups(calls, groups).node] : []));
  }

  // ---- the page ----

  function follow(calls) {
    const [part, asked] = decodeHash();
    if (part !== "calls") return;
    drawCalls(calls, new URLSearchParams(asked));
    if (asked) {
      byId("calls").scrollIntoView();
      byId("calls-title").focus({ preventScroll: true });
    }
  }

  function decodeHash() {
    const hash = location.hash.slice(1);
    const at = hash.indexOf("?");
    return at < 0 ? [hash, ""] : [hash.slice(0, at), hash.slice(at + 1)];
  }

  function watchTheme(redraw) {
    const button = byId("theme");
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
    const show = () => { button.textContent = isDark() ? "Light" : "Dark"; redraw(); };
    button.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; show(); });
    dark.addEventListener("change", show);
    button.hidden = false;
    show();
  }

  async function start() {
    const data = await unpack();
    const calls = new Calls(data.calls, data.texts);
    for (const id of ["shares", "calls"]) byId(id).hidden = false;
    drawTabs(data.shares);
    drawCalls(calls, new URLSearchParams(data.calls.first));
    addEventListener("hashchange", () => follow(calls));
    watchTheme(() => { if (data.shares.length) drawChart(byId("panel").querySelector("canvas"), data.shares[current]); });
    follow(calls);
    document.documentElement.dataset.ready = "yes";
  }

  start().catch((error) => {
    byId("broken").hidden = false;
    byId("broken").textContent = `Shares and calls cannot be drawn by this browser: ${error.message}. guardpool report writes them as text, Markdown, JSON and CSV, too.`;
  });
})();
