// Draws every plot of the page from the JSON next to it, in the page's current colors.
(() => {
  "use strict";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const plots = [...document.querySelectorAll(".drawing")];
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const scheme = (plot) => ({
    "font.color": color("--ink"),
    "hoverlabel.bgcolor": color("--raised"),
    "hoverlabel.bordercolor": color("--rule"),
    "hoverlabel.font.color": color("--ink"),
    ...Object.fromEntries(["xaxis", "yaxis"].flatMap((axis) => [
      [`${axis}.gridcolor`, color("--grid")],
      [`${axis}.linecolor`, color("--muted")],
      [`${axis}.zerolinecolor`, color("--rule")],
      [`${axis}.tickcolor`, color("--muted")],
      [`${axis}.tickfont.color`, color("--muted")],
    ])),
    ...Object.fromEntries((plot.layout.scene ? ["xaxis", "yaxis", "zaxis"] : []).flatMap((axis) => [
      [`scene.${axis}.color`, color("--muted")],
      [`scene.${axis}.gridcolor`, color("--rule")],
      [`scene.${axis}.zerolinecolor`, color("--rule")],
    ])),
    ...Object.fromEntries((plot.layout.shapes ?? []).map((_, i) => [`shapes[${i}].line.color`, color("--muted")])),
  });

  const axis = (given) => ({
    showline: true, zeroline: true, zerolinewidth: 1, ticks: "outside", ticklen: 5, automargin: true,
    tickfont: { size: 13 }, hoverformat: ".4~g", ...given,
  });

  const layout = (given) => ({
    autosize: true,
    margin: { l: 8, r: 14, t: 10, b: 8 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 14 },
    hovermode: "x unified",
    hoverlabel: { font: { size: 13 } },
    showlegend: false,
    // On a touch screen a drag scrolls the page.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    ...given,
    xaxis: axis(given.xaxis),
    yaxis: axis(given.yaxis),
  });

  // No tool bar: one of its buttons uploads the data to cloud.plotly.com. A drag enlarges, a double click goes back.
  const config = { responsive: true, displayModeBar: false, plotlyServerURL: "" };

  // One legend serves all plots of its section.
  const toggle = (list) => (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    list.closest("section").querySelectorAll(".drawing").forEach((plot) => {
      const members = plot.data.flatMap((trace, i) => (trace.legendgroup === button.dataset.line ? [i] : []));
      if (members.length) Plotly.restyle(plot, { visible: shown }, members);
    });
  };

  // Shows the same numbers in space: lines and marks over the map are put on the surface.
  const solid = (lift) => (trace) => {
    if (trace.z) {
      const level = trace.contours?.start;
      // Plotly adds contour lines of its own if start and end are equal.
      const reach = trace.zmax - trace.zmin;
      const line = { show: level !== undefined, start: level, end: level + reach / 1e4, size: reach, color: "#111111", width: 4 };
      const { x, y, z, colorscale } = trace;
      return [{ type: "surface", x, y, z, colorscale, cmin: trace.zmin, cmax: trace.zmax, showscale: false,
        contours: { z: line }, hovertemplate: trace.hovertemplate }];
    }
    if (trace.meta === "halo") return [];
    // Slightly above the surface, which would otherwise hide half of a line.
    const raised = trace.customdata.map((z) => (z === null ? null : z + lift));
    const { customdata, line, marker, hovertemplate, ...rest } = trace;
    const stroke = marker ? {} : { line: { ...line, width: 5 } };
    // Plots in space have no triangles and draw only half of each cross.
    const symbol = marker?.symbol === "circle" ? "circle" : "diamond";
    const point = marker ? { marker: { ...marker, size: 5, symbol } } : {};
    return [{ ...rest, ...stroke, ...point, type: "scatter3d", z: raised, hovertemplate }];
  };

  const scene = (axes) => ({
    // Seen from the direction of the attack, which points upwards on the flat map.
    camera: { eye: { x: 1.3, y: 1.75, z: 0.95 }, center: { x: 0, y: 0, z: -0.12 } }, aspectmode: "cube",
    ...Object.fromEntries(["xaxis", "yaxis", "zaxis"].map((name) => [name, {
      showspikes: false, tickfont: { size: 10 }, nticks: 5, ...axes[name], title: { ...axes[name].title, font: { size: 11 } },
    }])),
  });

  const given = new Map(plots.map((plot) => [plot, JSON.parse(plot.nextElementSibling.textContent)]));
  // Hover texts are made here: ten thousand names would be larger than the map.
  given.forEach(({ data, classes }) => {
    if (classes) data[0].text = data[0].z.map((row) => row.map((k) => classes[k]));
  });

  const flat = (plot) => Plotly.newPlot(plot, given.get(plot).data, layout(given.get(plot).layout), config)
    .then(() => Plotly.relayout(plot, scheme(plot)));

  const spatial = (plot) => {
    const { data, layout: wanted } = given.get(plot);
    const drawn = { ...layout({}), margin: { l: 0, r: 0, t: 0, b: 0 }, hovermode: "closest", scene: scene(wanted.scene) };
    const [low, high] = wanted.scene.zaxis.range;
    const traces = data.flatMap(solid((high - low) / 80));
    return Plotly.newPlot(plot, traces, { ...drawn, dragmode: "turntable" }, config)
      .then(() => Plotly.relayout(plot, scheme(plot)));
  };

  const pressed = (button) => button.getAttribute("aria-pressed") === "true";
  const shown = (button, space) => {
    button.setAttribute("aria-pressed", String(space));
    button.textContent = space ? "Show as flat maps" : "Show as surfaces to turn";
    const section = button.closest("section");
    section.classList.toggle("spatial", space);
    const together = [...section.querySelectorAll(".drawing")];
    section.querySelectorAll(".names button").forEach((entry) => entry.setAttribute("aria-pressed", "true"));
    together.forEach((plot) => {
      Plotly.purge(plot);
      (space ? spatial : flat)(plot).then(() => {
        if (!space) return;
        // Turning one panel turns all of them.
        plot.on("plotly_relayout", (change) => {
          const camera = change["scene.camera"];
          if (!camera || plot.following) return;
          together.filter((other) => other !== plot).forEach((other) => {
            other.following = true;
            Plotly.relayout(other, { "scene.camera": camera }).then(() => { other.following = false; });
          });
        });
      });
    });
  };

  const turns = [...document.querySelectorAll("button.turn")];
  turns.forEach((button) => button.addEventListener("click", () => {
    const space = !pressed(button);
    // Browsers allow only a few plots in space, so one section has them at a time.
    turns.filter((other) => other !== button && pressed(other)).forEach((other) => shown(other, false));
    shown(button, space);
  }));

  const recolor = () => plots.forEach((plot) => Plotly.relayout(plot, scheme(plot)));

  plots.forEach((plot) => Plotly.newPlot(plot, given.get(plot).data, layout(given.get(plot).layout), config));
  document.querySelectorAll(".names").forEach((list) => list.addEventListener("click", toggle(list)));
  recolor();
  dark.addEventListener("change", recolor);
  // Printed pages are light and narrow; the style sheet sets the width.
  const print = matchMedia("print");
  print.addEventListener("change", () => {
    recolor();
    plots.forEach((plot) => Plotly.Plots.resize(plot));
  });
})();
