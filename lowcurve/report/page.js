// Draws every plot of the page from the JSON beside it, in the colors that the page has at the moment.
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

  const toggle = (plot) => (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const shown = button.getAttribute("aria-pressed") !== "true";
    const members = plot.data.flatMap((trace, i) => (trace.legendgroup === button.dataset.line ? [i] : []));
    button.setAttribute("aria-pressed", String(shown));
    Plotly.restyle(plot, { visible: shown }, members);
  };

  const recolor = () => plots.forEach((plot) => Plotly.relayout(plot, scheme(plot)));

  plots.forEach((plot) => {
    const given = JSON.parse(plot.nextElementSibling.textContent);
    Plotly.newPlot(plot, given.data, layout(given.layout), config);
    plot.closest("section").querySelector(".names").addEventListener("click", toggle(plot));
  });
  recolor();
  dark.addEventListener("change", recolor);
  // Paper is light and narrower than most windows; the style sheet says how wide.
  const print = matchMedia("print");
  print.addEventListener("change", () => {
    recolor();
    plots.forEach((plot) => Plotly.Plots.resize(plot));
  });
})();
