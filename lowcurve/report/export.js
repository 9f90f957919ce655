// A figure as one SVG with its title, legend and conditions, on white; and the same as PNG. Nothing leaves the browser.
(() => {
  "use strict";
  const { all, data } = window.lowcurve;
  const WIDTH = 760;
  const EDGE = 20;
  const FONT = "system-ui, 'Segoe UI', Roboto, 'Noto Sans', Helvetica, Arial, sans-serif";
  const STYLE = `text{font-family:${FONT};fill:#1c2126}.across,.up{font-size:13px;fill:#59626b}.across{text-anchor:middle;dominant-baseline:hanging}`
    + ".up{text-anchor:end;dominant-baseline:central}.grid{stroke:#e9ecef;fill:none}.axis{stroke:#59626b;fill:none}"
    + ".line{fill:none;stroke-width:2.25;stroke-linejoin:round}.band{fill-opacity:.16}.points{fill-opacity:.7;stroke-opacity:.7}"
    + ".marks,.points{stroke-width:0}.round{stroke-width:6;stroke-linecap:round}"
    + ".hollow{fill:none;stroke-width:1.5;stroke-opacity:.7}.diagonal{stroke:#59626b;stroke-width:1.5;stroke-dasharray:5 4;fill:none}"
    + ".level{stroke:#111;stroke-width:1.75;fill:none}.halo{stroke:#fff;stroke-opacity:.75;stroke-width:5;fill:none}"
    + ".mark{fill:#fff;stroke:#111;stroke-width:1.5}";
  const ruler = document.createElement("canvas").getContext("2d");
  const escape = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const clean = (element) => (element?.textContent ?? "").replace(/\s+/g, " ").trim();

  class Sheet {
    constructor() { this.parts = []; this.y = EDGE; }

    text(words, size, { bold = false, color = "#1c2126", x = EDGE, width = WIDTH - 2 * EDGE, anchor = "start" } = {}) {
      ruler.font = `${bold ? "600 " : ""}${size}px ${FONT}`;
      const lines = [""];
      words.split(" ").filter(Boolean).forEach((word) => {
        const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
        if (lines.at(-1) && ruler.measureText(longer).width > width) lines.push(word);
        else lines[lines.length - 1] = longer;
      });
      lines.filter(Boolean).forEach((line) => {
        this.y += size * 1.35;
        this.parts.push(`<text x="${x}" y="${this.y - size * 0.3}" text-anchor="${anchor}" style="font-size:${size}px;fill:${color}`
          + `${bold ? ";font-weight:600" : ""}">${escape(line)}</text>`);
      });
    }

    // Swatches with their names, in as many rows as they need.
    legend(entries) {
      if (!entries.length) return;
      let x = EDGE;
      this.y += 6;
      ruler.font = `13px ${FONT}`;
      entries.forEach(([swatch, name]) => {
        const wide = 30 + ruler.measureText(name).width + 18;
        if (x > EDGE && x + wide > WIDTH - EDGE) { x = EDGE; this.y += 20; }
        const [, , w, h] = swatch.getAttribute("viewBox").split(" ").map(Number);
        this.parts.push(`<svg x="${x}" y="${this.y + 9 - h / 2}" width="${w}" height="${h}" viewBox="0 0 ${w} ${h}">${inner(swatch)}</svg>`
          + `<text x="${x + 28}" y="${this.y + 13}" style="font-size:13px">${escape(name)}</text>`);
        x += wide;
      });
      this.y += 24;
    }

    ramp(scale) {
      const colors = data(scale.closest("section")).ramp;
      const stops = colors.map((color, i) => `<stop offset="${i / (colors.length - 1)}" stop-color="${color}"/>`).join("");
      this.text(clean(scale.querySelector(".label")), 12, { color: "#59626b" });
      this.parts.push(`<linearGradient id="ramp">${stops}</linearGradient><rect x="${EDGE}" y="${this.y + 2}" width="240" height="11" fill="url(#ramp)"/>`);
      all(".ticks span", scale).forEach((tick, i) => {
        this.parts.push(`<text x="${EDGE + 120 * i}" y="${this.y + 27}" text-anchor="${["start", "middle", "end"][i]}" style="font-size:11px">${escape(tick.textContent)}</text>`);
      });
      this.y += 34;
    }

    drawing(drawing, x, width) {
      const canvas = drawing.querySelector("canvas");
      const svg = drawing.querySelector("svg.chart");
      const [, , w, h] = svg.getAttribute("viewBox").split(" ").map(Number);
      const height = width * (canvas ? canvas.height / canvas.width : h / w);
      this.parts.push(canvas ? `<image x="${x}" y="${this.y}" width="${width}" height="${height}" href="${canvas.toDataURL()}"/>`
        : `<svg x="${x}" y="${this.y}" width="${width}" height="${height}" viewBox="0 0 ${w} ${h}" overflow="visible">${inner(svg)}</svg>`);
      return height;
    }

    whole() {
      const height = Math.ceil(this.y + EDGE);
      return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}">`
        + `<style>${STYLE}</style><rect width="100%" height="100%" fill="#fff"/>${this.parts.join("")}</svg>`;
    }
  }

  const inner = (svg) => {
    const copy = svg.cloneNode(true);
    all(".cursor", copy).forEach((part) => part.remove());
    return new XMLSerializer().serializeToString(copy).replace(/^<svg[^>]*>|<\/svg>$/g, "");
  };

  const panels = (sheet, list) => {
    const across = list.length === 1 ? 1 : list.length === 2 || list.length === 4 ? 2 : 3;
    const width = across === 1 ? 400 : (WIDTH - 2 * EDGE - 16 * (across - 1)) / across;
    for (let first = 0; first < list.length; first += across) {
      const top = sheet.y;
      let below = top;
      list.slice(first, first + across).forEach((panel, i) => {
        const x = EDGE + i * (width + 16);
        sheet.y = top;
        sheet.text(clean(panel.querySelector("figcaption")), 13, { bold: true, x, width });
        sheet.y += sheet.drawing(panel.querySelector(".drawing"), x, width);
        sheet.text(clean(panel.querySelector(".note")), 11, { x, width, color: "#59626b" });
        below = Math.max(below, sheet.y);
      });
      sheet.y = below + 10;
    }
  };

  const gallery = (sheet, table) => {
    const columns = table.tHead.rows[0].cells.length - 1;
    const side = Math.min(112, (WIDTH - 2 * EDGE - 110) / columns - 8);
    const line = (cells, size) => {
      const top = sheet.y;
      let below = top;
      cells.forEach((text, i) => {
        sheet.y = top;
        sheet.text(text, size, { x: EDGE + 110 + i * (side + 8), width: side });
        below = Math.max(below, sheet.y);
      });
      sheet.y = below + 4;
    };
    line([...table.tHead.rows[0].cells].slice(1).map(clean), 12);
    [...table.tBodies[0].rows].forEach((row) => {
      const top = sheet.y;
      sheet.text(clean(row.cells[0]), 12, { width: 104 });
      const named = sheet.y;
      sheet.y = top;
      all("img", row).forEach((image, i) => {
        const height = side * (image.height / image.width || 1);
        sheet.parts.push(`<image x="${EDGE + 110 + i * (side + 8)}" y="${top}" width="${side}" height="${height}" style="image-rendering:pixelated" href="${image.src}"/>`);
        sheet.y = Math.max(sheet.y, top + height + 2);
      });
      line([...row.cells].slice(1).map((cell) => clean(cell.querySelector(".note"))), 10);
      sheet.y = Math.max(sheet.y, named) + 4;
    });
  };

  const compose = (section) => {
    const sheet = new Sheet();
    sheet.text(clean(section.querySelector("h2, h3")), 18, { bold: true });
    const entries = all(".names li, .classes li", section)
      .filter((entry) => !entry.querySelector('[aria-pressed="false"]'))
      .map((entry) => [entry.querySelector("svg"), clean(entry)]).filter(([swatch]) => swatch);
    sheet.legend(entries);
    const scale = section.querySelector(".scale");
    if (scale) sheet.ramp(scale);
    const labels = all("p.label", section).filter((label) => !label.closest(".scale"));
    sheet.text(clean(labels[0]), 12, { color: "#59626b" });
    const list = all("figure.panel", section);
    const table = section.querySelector("table.gallery");
    if (table) gallery(sheet, table);
    else if (list.length) panels(sheet, list);
    else sheet.y += sheet.drawing(section.querySelector(".drawing"), EDGE, WIDTH - 2 * EDGE);
    sheet.text(clean(labels[1]), 12, { color: "#59626b", x: WIDTH - EDGE, anchor: "end" });
    all("section > .note", section.parentNode).filter((note) => section === note.parentNode)
      .forEach((note) => sheet.text(clean(note), 12));
    sheet.y += 6;
    sheet.text(clean(section.querySelector(".conditions p")), 11, { color: "#59626b" });
    return sheet.whole();
  };

  const png = (section) => new Promise((done, failed) => {
    const picture = new Image();
    picture.onload = () => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [2 * picture.width, 2 * picture.height];
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("the browser made no PNG"))));
    };
    picture.onerror = () => failed(new Error("the browser cannot draw the figure"));
    picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(compose(section))}`;
  });
  Object.assign(window.lowcurve, { svg: compose, png });
})();
