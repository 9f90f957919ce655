// Figures: the values below the pointer, the numbers as a table, and the buttons that save them.
(() => {
  "use strict";
  const { all, sortable } = window.lowcurve;
  const make = (tag, text = "", name = "") => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const short = (value) => (value === null || value === undefined ? "–" : String(Number(Number(value).toPrecision(4))));
  const read = new Map();
  const data = (section) => {
    const script = section.querySelector('script[type="application/json"]');
    if (script && !read.has(section)) read.set(section, JSON.parse(script.textContent));
    return read.get(section);
  };

  // --- places and values
  const share = ([low, high, logarithmic], value) => (logarithmic
    ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
  const value = ([low, high, logarithmic], at) => (logarithmic ? low * (high / low) ** at : low + at * (high - low));
  const place = (given, x, y) => {
    const [left, top, right, bottom] = given.frame;
    return [left + share(given.axes[0], x) * (right - left), bottom - share(given.axes[1], y) * (bottom - top)];
  };
  const shown = (section, line) => section.querySelector(`.names [data-line="${line}"]`)?.getAttribute("aria-pressed") !== "false";

  const lines = (given, section, x, y) => {
    const at = given.x.map((v, i) => [Math.abs(share(given.axes[0], v) - share(given.axes[0], x)), i])
      .filter(([gap]) => isFinite(gap)).sort(([a], [b]) => a - b)[0]?.[1];
    if (at === undefined) return null;
    const texts = given.lines.flatMap(({ name, y: values, low, high }, line) => (shown(section, line) && values[at] !== null
      ? [`${name}: ${short(values[at])}${low?.[at] != null && high?.[at] != null ? ` [${short(low[at])}, ${short(high[at])}]` : ""}`] : []));
    return { text: [`at ${short(given.x[at])}`, ...texts].join("\n"), at: place(given, given.x[at], y), upright: true };
  };
  const points = (given, section, x, y, here) => {
    let best = null;
    given.lines.forEach((line, number) => {
      if (!shown(section, number)) return;
      line.x.forEach((a, i) => {
        if (a === null || line.y[i] === null) return;
        const at = place(given, a, line.y[i]);
        const gap = Math.hypot(at[0] - here[0], at[1] - here[1]);
        if (gap < (best?.gap ?? 25)) best = { gap, at, text: `${line.name}, example ${i}\n${short(a)}, ${short(line.y[i])}` };
      });
    });
    return best;
  };
  const STEPS = 65534; // one more means no value
  const grid = (panel) => {
    if (!panel.steps) {
      const bytes = Uint8Array.from(atob(panel.values), (c) => c.charCodeAt(0));
      panel.steps = new Uint16Array(bytes.buffer);
    }
    return panel.steps;
  };
  const pictures = new Map();
  const classAt = (given, image, x, y) => {
    if (!pictures.has(image)) {
      const picture = new Image();
      const canvas = document.createElement("canvas");
      pictures.set(image, canvas);
      picture.onload = () => {
        [canvas.width, canvas.height] = [picture.width, picture.height];
        canvas.getContext("2d", { willReadFrequently: true }).drawImage(picture, 0, 0);
      };
      picture.src = image.getAttribute("href");
    }
    const canvas = pictures.get(image);
    const [column, row] = [x * (canvas.width - 1), (1 - y) * (canvas.height - 1)].map(Math.round);
    const [red, green, blue] = canvas.getContext("2d").getImageData(column, row, 1, 1).data;
    return given.classes[`#${[red, green, blue].map((part) => part.toString(16).padStart(2, "0")).join("")}`] ?? "";
  };
  const onMap = (given, drawing, x, y, here) => {
    const [across, up] = [share(given.axes[0], x), share(given.axes[1], y)];
    let told;
    if (given.classes) told = classAt(given, drawing.querySelector("image"), across, up);
    else {
      const panel = given.panels[all(".drawing", drawing.closest("section")).indexOf(drawing)];
      const [rows, columns] = panel.shape;
      const step = grid(panel)[Math.round(up * (rows - 1)) * columns + Math.round(across * (columns - 1))];
      const [low, high] = given.heights;
      told = step > STEPS ? "–" : `about ${short(Number((low + (step / STEPS) * (high - low)).toPrecision(3)))}`;
    }
    return { text: `${short(x)}, ${short(y)}\n${told}`, at: here };
  };

  // --- the box below the pointer
  const tip = make("div", "", "tip");
  const ns = "http://www.w3.org/2000/svg";
  const cursor = document.createElementNS(ns, "path");
  cursor.setAttribute("class", "cursor");
  const hide = () => { tip.remove(); cursor.remove(); };
  const tell = (svg, here) => {
    const section = svg.closest("section");
    const given = data(section);
    const [left, top, right, bottom] = given.frame;
    const [across, up] = [(here[0] - left) / (right - left), (bottom - here[1]) / (bottom - top)];
    if (across < -0.02 || across > 1.02 || up < -0.02 || up > 1.02) return hide();
    const inside = [across, up].map((at) => Math.min(1, Math.max(0, at)));
    const [x, y] = [value(given.axes[0], inside[0]), value(given.axes[1], inside[1])];
    const drawing = svg.closest(".drawing");
    const found = given.kind === "curves" ? lines(given, section, x, y)
      : given.kind === "scatter" ? points(given, section, x, y, here) : onMap(given, drawing, x, y, here);
    if (!found) return hide();
    const scale = svg.clientWidth / svg.viewBox.baseVal.width;
    tip.textContent = found.text;
    drawing.append(tip);
    const beyond = found.at[0] * scale + tip.offsetWidth + 14 > svg.clientWidth;
    tip.style.left = `${Math.max(0, found.at[0] * scale + (beyond ? -tip.offsetWidth - 10 : 10))}px`;
    tip.style.top = `${Math.max(0, here[1] * scale - 10)}px`;
    if (found.upright) {
      cursor.setAttribute("d", `M${found.at[0]} ${top}V${bottom}`);
      svg.append(cursor);
    } else cursor.remove();
  };
  const pointed = (event) => {
    const svg = event.target.closest?.(".drawing > svg.chart");
    if (!svg || !data(svg.closest("section"))) return hide();
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    tell(svg, [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale]);
  };
  document.addEventListener("pointermove", pointed, { passive: true });
  document.addEventListener("pointerdown", pointed, { passive: true });
  // The arrow keys move along a chart.
  document.addEventListener("keydown", (event) => {
    const svg = document.activeElement?.closest?.(".drawing > svg.chart");
    const turn = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const given = svg && data(svg.closest("section"));
    if (!turn || given?.kind !== "curves") return;
    event.preventDefault();
    svg.step = Math.min(given.x.length - 1, Math.max(0, (svg.step ?? -1) + turn));
    tell(svg, [place(given, given.x[svg.step], 1)[0], 60]);
  });
  document.addEventListener("focusout", hide);

  // --- numbers
  const rows = (given) => {
    if (given.table) return given.table;
    if (given.kind === "curves") {
      const cell = ({ y, low, high }, i) => (low?.[i] != null && high?.[i] != null && y[i] !== null
        ? `${short(y[i])} [${short(low[i])}, ${short(high[i])}]` : short(y[i]));
      return [[given.labels[0], ...given.lines.map(({ name }) => name)],
        ...given.x.map((x, i) => [short(x), ...given.lines.map((line) => cell(line, i))])];
    }
    return [["network", "example", ...given.labels],
      ...given.lines.flatMap(({ name, x, y }) => x.map((a, i) => [name, String(i), short(a), short(y[i])]))];
  };
  const table = (cells) => {
    const whole = make("table", "", "numbers");
    const fill = (row, texts, head) => texts.forEach((text, i) => {
      const cell = row.appendChild(make(head || i === 0 ? "th" : "td", text, i || head ? "number" : ""));
      if (head || i === 0) cell.scope = head ? "col" : "row";
    });
    fill(whole.createTHead().insertRow(), cells[0], true);
    const body = whole.createTBody();
    cells.slice(1).forEach((texts) => fill(body.insertRow(), texts, false));
    sortable(whole);
    return whole;
  };
  const csv = (cells) => cells.map((row) => row.map((text) => `"${text.replaceAll('"', '""')}"`).join(",")).join("\r\n");

  const save = (name, content, type) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const enlarge = (section) => {
    const dialog = document.body.appendChild(make("dialog"));
    const image = dialog.appendChild(document.createElement("img"));
    image.alt = section.querySelector("h2, h3").textContent;
    image.style.width = "100%";
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(window.lowcurve.svg(section))}`;
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    dialog.showModal();
  };
  const actions = {
    "Save SVG": (section) => save(`${section.id}.svg`, window.lowcurve.svg(section), "image/svg+xml"),
    "Save PNG": (section) => window.lowcurve.png(section).then((blob) => save(`${section.id}.png`, blob)),
    Enlarge: enlarge,
    "Save CSV": (section) => save(`${section.id}.csv`, csv(rows(data(section))), "text/csv"),
    Numbers: (section, button) => {
      const old = section.querySelector(".high");
      button.setAttribute("aria-expanded", String(!old));
      if (old) return old.remove();
      const box = make("div", "", "scroll high");
      box.tabIndex = 0;
      box.append(table(rows(data(section))));
      section.querySelector(".tools").after(box);
    },
  };
  // The buttons are made when a figure comes into view: a folded group costs nothing.
  const equip = (section) => {
    if (section.querySelector(".tools")) return;
    const tools = make("div", "", "tools");
    Object.entries(actions).forEach(([name, act]) => {
      if (["Save CSV", "Numbers"].includes(name) && !data(section)) return;
      const button = tools.appendChild(make("button", name));
      button.type = "button";
      button.addEventListener("click", () => act(section, button));
    });
    section.querySelector(".caption, .conditions")?.before(tools);
    if (!tools.parentNode) section.append(tools);
  };
  const watch = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
    if (!isIntersecting) return;
    watch.unobserve(target);
    equip(target);
  }), { rootMargin: "300px" });
  all("section.figure").forEach((section) => watch.observe(section));
  Object.assign(window.lowcurve, { data, grid, share, shown, STEPS });
})();
